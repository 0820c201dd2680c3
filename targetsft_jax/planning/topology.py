"""Device topologies by name, such as "v5e:4x4" or "cpu:8", without the hardware.

A TPU topology is the compiler's description of devices: programs can be compiled for
it, but not run.
"""

import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

import jax

from targetsft_jax.command import UsageError
from targetsft_jax.keys import shown
from targetsft_jax.planning.chips import CHIPS, Chip

MOST_CPU_DEVICES = 4096


class TopologyError(UsageError):
    """Unknown topology, or bounds that the TPU compiler rejects."""


class UnavailableTopology(OSError):
    """Topology that this process cannot compile for."""


@dataclass(frozen=True)
class Topology:
    """Devices to compile for.

    Attributes:
        name: requested name.
        devices: jax devices.
        chip: capacity and rates of a device; None for CPUs.
        slices: number of TPU slices, connected by the data-centre network only.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    slices: int = 1


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """Parse "v5e:4x4" into generation and bounds: ("v5e", (4, 4)).

    Raises:
        TopologyError: the name is not cpu:N or a TPU generation with bounds.
    """
    match = re.fullmatch(r"(\w+):(\d{1,5}(?:x\d{1,5}){0,2})", name)
    kinds = ("cpu", *CHIPS)
    if match is None or match[1] not in kinds or 0 in map(int, match[2].split("x")):
        raise TopologyError(
            f"--topology is {shown(name)}; expected cpu:N, or a generation and its "
            f"bounds such as v5e:4x4 or v5p:2x2x4 (generations: {', '.join(CHIPS)})"
        )
    bounds = tuple(map(int, match[2].split("x")))
    if match[1] == "cpu" and bounds[0] > MOST_CPU_DEVICES:
        raise TopologyError(
            f"--topology is {name!r}; expected at most cpu:{MOST_CPU_DEVICES}"
        )
    if match[1] == "cpu" and len(bounds) != 1:
        raise TopologyError(f"--topology is {name!r}; expected cpu:N, such as cpu:8")
    return match[1], bounds


def prepare_jax(name: str) -> None:
    """Configure jax to compile for a topology; call it before jax initializes.

    Args:
        name: topology name; cpu:N configures N virtual devices.

    Raises:
        TopologyError: as `parse_topology`.
    """
    kind, bounds = parse_topology(name)
    for key, value in (
        # Otherwise libtpu queries the cloud's metadata server and takes a lock.
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
        if kind == "cpu":
            jax.config.update("jax_num_cpu_devices", bounds[0])
    except RuntimeError:
        # jax is initialized: the number of devices can no longer change.
        pass


def get_topology(name: str, slices: int = 1) -> Topology:
    """Look up the devices of a topology.

    Args:
        name: topology name, such as "v5e:4x4" or "cpu:8".
        slices: number of TPU slices with these bounds.

    Raises:
        TopologyError: there is no such topology.
        UnavailableTopology: libtpu is not installed, or jax was initialized with fewer
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
            "expected existing bounds, such as v5e:4x4 or v5p:2x2x4"
        ) from None
    return Topology(name, tuple(description.devices), CHIPS[kind], slices)


def _cpu_devices(count: int) -> tuple[Any, ...]:
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UnavailableTopology(
            f"--topology is cpu:{count}, but jax has {len(devices)} CPU devices; set "
            f"jax_num_cpu_devices to {count} before jax initializes"
        )
    return tuple(devices[:count])
