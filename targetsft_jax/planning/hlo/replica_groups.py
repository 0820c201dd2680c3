"""Replica groups of collectives: the devices that exchange data, in XLA's spellings.

    {{0,1},{2,3}}                       every group
    [2,64]<=[128]                       0, 1, 2, … reshaped
    [64,2]<=[2,64]T(1,0)                … as [2, 64], transposed, reshaped
    mesh['x'=2,'y'=64] {'y'}            axes of a mesh of all devices
    source_target_pairs={{0,1},{1,0}}   sender and receiver of a permutation

Devices are numbered in the order of the mesh that the program was compiled for.
"""

import itertools
import math
import re
from collections.abc import Sequence

import numpy as np

_LIST = re.compile(r"=\{(\{[\d,{} ]*\})\}")
_IOTA = re.compile(r"\[([\d,]+)\](?:<=\[([\d,]+)\])?(?:T\(([\d,]+)\))?")
_AXES = re.compile(
    r"=mesh\[([^\]]*)\](?:, device_ids=\((.*?)\)(?= \{))? ?\{([^}]*)\}", re.DOTALL
)
_AXIS = re.compile(r"'?([^',=\s]+?)'?(?::\((\d+)\)(\d+))?(?:,|$)")


def replica_groups(attributes: str, devices: int) -> np.ndarray:
    """Return the groups of an instruction, [groups, devices per group].

    One group of all devices if none is named.

    Args:
        attributes: attributes of the instruction.
        devices: number of devices of the program.
    """
    text = attributes.partition("replica_groups")[2]
    if text.startswith("={{"):
        return _listed(text)
    if text.startswith("=["):
        match = _IOTA.match(text, 1)
        assert match is not None
        return _iota(match)
    axes = _AXES.match(text)
    if axes:
        return _mesh_axes(axes, devices)
    return np.arange(devices)[None]


def permutation(attributes: str) -> np.ndarray | None:
    """Return the pairs (sender, receiver) of a permutation, [pairs, 2], or None."""
    text = attributes.partition("source_target_pairs")[2]
    return _listed(text) if text.startswith("={{") else None


def most_slices(groups: np.ndarray, slices: Sequence[int]) -> int:
    """Return the largest number of slices that a group spans.

    Args:
        groups: [groups, devices per group].
        slices: slice of each device; empty: all devices are in one.
    """
    if not len(slices):
        return 1
    members = np.sort(np.asarray(slices)[groups], axis=1)
    return 1 + int((members[:, 1:] != members[:, :-1]).sum(axis=1).max(initial=0))


def _listed(text: str) -> np.ndarray:
    match = _LIST.match(text)
    assert match is not None
    groups = [
        list(map(int, group.split(",")))
        for group in re.findall(r"\{([\d,\s]+)\}", match[1])
    ]
    return np.array(groups)


def _iota(match: re.Match[str]) -> np.ndarray:
    """Return 0, 1, 2, … reshaped, transposed, and reshaped again."""
    shape = _numbers(match[1])
    source = _numbers(match[2]) if match[2] else [math.prod(shape)]
    numbers = np.arange(math.prod(source)).reshape(source)
    if match[3]:
        numbers = numbers.transpose(_numbers(match[3]))
    return numbers.reshape(shape)


def _mesh_axes(match: re.Match[str], devices: int) -> np.ndarray:
    """Return the groups along axes of a mesh; 'x':(before)size is a part of an axis."""
    sizes = {
        name: int(size) for name, size in re.findall(r"'?([^',]+?)'?=(\d+)", match[1])
    }
    used = [
        (axis[1], int(axis[2] or 1), int(axis[3] or sizes[axis[1]]))
        for axis in _AXIS.finditer(match[3])
        if axis[1] in sizes
    ]
    # Split every axis where a part begins or ends, so that a part is some of the axes.
    shape: list[int] = []
    inner: list[int] = []
    for name, length in sizes.items():
        parts = [(before, before * size) for axis, before, size in used if axis == name]
        cuts = sorted({1, length}.union(*parts))
        for low, high in itertools.pairwise(cuts):
            if any(begin <= low and high <= end for begin, end in parts):
                inner.append(len(shape))
            shape.append(high // low)
    grid = _device_order(match[2], list(sizes.values()), devices).reshape(shape)
    outer = [axis for axis in range(grid.ndim) if axis not in inner]
    group = math.prod(shape[axis] for axis in inner)
    return grid.transpose(outer + inner).reshape(-1, group)


def _device_order(text: str | None, shape: list[int], devices: int) -> np.ndarray:
    """Return the devices of a mesh in its order."""
    if not text:
        return np.arange(devices)
    iota = _IOTA.match(text)
    if iota is None:
        return np.array(_numbers(text))
    if iota[2]:
        return _iota(iota)
    # Without "<=", the brackets have the dimensions before the transposition.
    numbers = np.arange(math.prod(shape)).reshape(_numbers(iota[1]))
    return numbers.transpose(_numbers(iota[3])) if iota[3] else numbers


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]
