"""Matrix products of a compiled program, and their FLOPs.

A product is a `dot`, or on TPUs mostly a `convolution`. A multiply-add is two FLOPs.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from targetsft_jax.planning.hlo.loops import Executed, Visit
from targetsft_jax.planning.hlo.parse import Shape


@dataclass(frozen=True)
class Dot(Executed):
    """A matrix product.

    Attributes:
        shape: shape of the result.
        left, right: shapes of the operands.
        flops: FLOPs per execution.
    """

    shape: Shape
    left: Shape
    right: Shape
    flops: int

    @property
    def total(self) -> int:
        """FLOPs per run; a loop of unknown trip count counts once."""
        return self.flops * self.times()


def products(visits: Sequence[Visit]) -> Iterator[Dot]:
    """Yield matrix products in the order of execution."""
    for visit in visits:
        instruction = visit.instruction
        if instruction.op not in ("dot", "convolution"):
            continue
        left, right = (
            visit.computation.instructions[name].shapes[0]
            for name in instruction.operands[:2]
        )
        shape = instruction.shapes[0]
        flops = _dot_flops if instruction.op == "dot" else _convolution_flops
        yield Dot(
            instruction.name,
            visit.loops,
            instruction.source,
            shape,
            left,
            right,
            flops(instruction.attributes, shape, left, right),
        )


def _dot_flops(attributes: str, shape: Shape, left: Shape, right: Shape) -> int:
    """Return 2 × elements of the result × contracted elements."""
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", attributes)
    axes = [int(n) for n in match[1].split(",") if n] if match else []
    return 2 * shape.size * math.prod(left.dims[axis] for axis in axes)


@dataclass(frozen=True)
class _Window:
    """Window of a convolution along one spatial axis."""

    stride: int
    pad_low: int
    base_dilation: int
    window_dilation: int

    @classmethod
    def of(cls, settings: dict[str, str], axis: int) -> "_Window":
        """Parse the fields of `window={…}`, whose values are joined by "x"."""

        def value(name: str, default: str) -> str:
            return settings[name].split("x")[axis] if name in settings else default

        return cls(
            stride=int(value("stride", "1")),
            pad_low=int(value("pad", "0_0").split("_")[0]),
            base_dilation=int(value("lhs_dilate", "1")),
            window_dilation=int(value("rhs_dilate", "1")),
        )


def _convolution_flops(attributes: str, shape: Shape, left: Shape, right: Shape) -> int:
    """Count FLOPs on input elements, without padding and dilation holes."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0
    inputs, kernel, outputs = (
        dict(zip(names, operand.dims))
        for names, operand in zip(labels.groups(), (left, right, shape))
    )
    flops = 2 * outputs["b"] * outputs["f"] * kernel["i"]
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(part.split("=") for part in (window[1].split() if window else ()))
    spatial = sorted(name for name in kernel if name.isdigit())
    for axis, name in enumerate(spatial):
        flops *= _valid_pairs(
            inputs[name], kernel[name], outputs[name], _Window.of(settings, axis)
        )
    return flops


def _valid_pairs(inputs: int, kernel: int, outputs: int, window: _Window) -> int:
    """Count pairs (output position, kernel position) that read an input element.

    Args:
        inputs, kernel, outputs: sizes along the axis.
        window: stride, padding and dilations along the axis.
    """
    last, pairs = (inputs - 1) * window.base_dilation, 0
    stride, dilation = window.stride, window.base_dilation
    for offset in range(0, kernel * window.window_dilation, window.window_dilation):
        first = offset - window.pad_low
        if dilation == 1:
            # Positions first + k·stride in [0, last], k in [0, outputs).
            lowest = max(0, -(first // stride))
            highest = min(outputs - 1, (last - first) // stride)
            pairs += max(0, highest - lowest + 1)
        else:
            positions = range(first, first + outputs * stride, stride)
            pairs += sum(0 <= p <= last and p % dilation == 0 for p in positions)
    return pairs
