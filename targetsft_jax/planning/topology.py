"""Devices by name, "v5e:4x4" or "cpu:8", whether or not they are here."""

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.planning.chips import CHIPS, Chip


class TopologyError(ValueError):
    """A topology that cannot be had, with what to change."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: as it was asked for.
        devices: jax's.
        chip: what each of them has; None on the CPU.
        slices: parts that are joined by the data-centre network only.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    slices: int = 1


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """("v5e", (4, 4)) of "v5e:4x4".

    Raises:
        TopologyError: neither a TPU generation with its bounds nor cpu:N.
    """
    found = re.fullmatch(r"(\w+):(\d+(?:x\d+){0,2})", name)
    kinds = ("cpu", *CHIPS)
    if found is None or found[1] not in kinds or 0 in map(int, found[2].split("x")):
        raise TopologyError(
            f"--topology is {name!r}; expected cpu:N, or a generation and its bounds "
            f"such as v5e:4x4 or v5p:2x2x4 (generations: {', '.join(CHIPS)})"
        )
    bounds = tuple(map(int, found[2].split("x")))
    if found[1] == "cpu" and len(bounds) != 1:
        raise TopologyError(f"--topology is {name!r}; expected cpu:N, such as cpu:8")
    return found[1], bounds


def prepare(name: str) -> None:
    """Set up jax to compile for devices that are described, not used."""
    for key, value in (
        # Libtpu would ask the cloud what machine this is, and lock itself.
        ("TPU_SKIP_MDS_QUERY", "1"),
        ("ALLOW_MULTIPLE_LIBTPU_LOAD", "1"),
        ("TPU_ACCELERATOR_TYPE", "v5litepod-8"),
        ("TPU_WORKER_HOSTNAMES", "localhost"),
        ("TPU_WORKER_ID", "0"),
        ("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1"),
    ):
        os.environ.setdefault(key, value)
    try:
        jax.config.update("jax_platforms", "cpu")
        kind, _, count = name.partition(":")
        if kind == "cpu" and count.isdigit() and int(count) > 0:
            jax.config.update("jax_num_cpu_devices", int(count))
    except RuntimeError:
        # Jax has started: its devices are what they are.
        pass


def topology(name: str, slices: int = 1) -> Topology:
    """The devices of a topology; a TPU's are the compiler's description of them.

    Raises:
        TopologyError: no such topology, no libtpu, or too few virtual CPU devices.
    """
    kind, bounds = parse(name)
    if kind == "cpu":
        if slices != 1:
            raise TopologyError(f"--num-slices is {slices}; cpu:N is one slice")
        return Topology(name, _cpus(bounds[0]), None)
    if importlib.util.find_spec("libtpu") is None:
        raise TopologyError(
            f"{name} needs the TPU compiler, libtpu, which is not installed; "
            'pip install -e ".[tpu]" (no TPU is needed), or use --topology cpu:8'
        )
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if set(bounds) == {1}:
        # Hosts have four chips unless it is said that they do not.
        options["chips_per_host_bounds"] = [1, 1, 1]
    if len(bounds) == 1:
        name = f"{kind}:{bounds[0]}x1"
    try:
        described = topologies.get_topology_desc(
            topology_name=name, platform="tpu", **options
        )
    except Exception as error:  # noqa: BLE001  the plug-in raises its own kinds
        reason = str(error).strip().split("\n")[0]
        raise TopologyError(
            f"--topology is {name!r}, which the TPU compiler does not take ({reason}); "
            "expected bounds that exist, such as v5e:4x4 or v5p:2x2x4"
        ) from None
    return Topology(name, tuple(described.devices), CHIPS[kind], slices)


def _cpus(count: int) -> tuple[Any, ...]:
    found = jax.devices("cpu")
    if len(found) < count:
        raise TopologyError(
            f"--topology is cpu:{count}, and jax has started with {len(found)} CPU "
            f"devices; set jax_num_cpu_devices to {count} before it starts"
        )
    return tuple(found[:count])
