"""Device topologies by name, such as "v5e:4x4" or "cpu:8", without the hardware.

A TPU topology is the TPU compiler's description of devices: programs can be compiled
for them, not run.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.command import UsageError
from targetsft_jax.planning.chips import CHIPS, Chip


class TopologyError(UsageError):
    """A topology that does not exist."""


class UnavailableTopology(OSError):
    """A topology that exists, but that this process cannot compile for."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: as requested.
        devices: jax devices.
        chip: capacity and rates of each; None for CPUs.
        slices: TPU slices, connected by the data-centre network only.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    slices: int = 1


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """Generation and bounds: ("v5e", (4, 4)) for "v5e:4x4".

    Raises:
        TopologyError: the name is neither cpu:N nor a TPU generation with bounds.
    """
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+){0,2})", name)
    kinds = ("cpu", *CHIPS)
    if match is None or match[1] not in kinds or 0 in map(int, match[2].split("x")):
        raise TopologyError(
            f"--topology is {name!r}; expected cpu:N, or a generation and its bounds "
            f"such as v5e:4x4 or v5p:2x2x4 (generations: {', '.join(CHIPS)})"
        )
    bounds = tuple(map(int, match[2].split("x")))
    if match[1] == "cpu" and len(bounds) != 1:
        raise TopologyError(f"--topology is {name!r}; expected cpu:N, such as cpu:8")
    return match[1], bounds


def prepare_jax(name: str) -> None:
    """Configure jax to compile for a topology; call it before jax starts.

    Args:
        name: the topology; cpu:N starts jax with N virtual devices.
    """
    for key, value in (
        # Without these libtpu queries the cloud's metadata server and locks itself.
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
        # Jax has started, so that its devices can no longer be changed.
        pass


def get_topology(name: str, slices: int = 1) -> Topology:
    """The devices of a topology.

    Args:
        name: such as "v5e:4x4" or "cpu:8".
        slices: number of TPU slices with these bounds.

    Raises:
        TopologyError: there is no such topology.
        UnavailableTopology: libtpu is not installed, or jax has started with fewer
            CPU devices.
    """
    kind, bounds = parse_topology(name)
    if slices < 1:
        raise TopologyError(f"--num-slices is {slices}; expected 1 or more")
    if kind == "cpu":
        if slices != 1:
            raise TopologyError(
                f"--num-slices is {slices}; expected 1, since cpu:N is one slice"
            )
        return Topology(name, _cpu_devices(bounds[0]), None)
    if importlib.util.find_spec("libtpu") is None:
        raise UnavailableTopology(
            f"{name} needs the TPU compiler, libtpu, which is not installed; "
            'pip install -e ".[tpu]" (no TPU is needed), or use --topology cpu:8'
        )
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if set(bounds) == {1}:
        # The default is a host with four chips.
        options["chips_per_host_bounds"] = [1, 1, 1]
    if len(bounds) == 1:
        name = f"{kind}:{bounds[0]}x1"
    try:
        description = topologies.get_topology_desc(
            topology_name=name, platform="tpu", **options
        )
    except Exception as error:  # noqa: BLE001  the plug-in raises several kinds
        reason = str(error).strip().split("\n")[0]
        raise TopologyError(
            f"--topology is {name!r}, which the TPU compiler rejects ({reason}); "
            "expected bounds that exist, such as v5e:4x4 or v5p:2x2x4"
        ) from None
    return Topology(name, tuple(description.devices), CHIPS[kind], slices)


def _cpu_devices(count: int) -> tuple[Any, ...]:
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UnavailableTopology(
            f"--topology is cpu:{count}, but jax has started with {len(devices)} CPU "
            f"devices; set jax_num_cpu_devices to {count} before it starts"
        )
    return tuple(devices[:count])
