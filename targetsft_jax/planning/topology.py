"""Device topologies by name: "v5e:4x4", "h100:8" or "cpu:8", without the hardware.

A topology of TPUs or GPUs is the compiler's description of devices: programs can be
compiled for it, but not run.
"""

import importlib.metadata
import importlib.util
import os
import re
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from targetsft_jax.command import UsageError
from targetsft_jax.keys import shown
from targetsft_jax.planning.chips import CHIPS, Chip
from targetsft_jax.planning.gpus import GPUS, Gpu

MOST_CPU_DEVICES = 4096
MOST_GPUS_PER_NODE = 72


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
        chip: capacity and rates of a TPU; None for other devices.
        slices: number of TPU slices, or of nodes of GPUs, connected by the data-centre
            network only.
        gpu: model of a GPU; None for other devices.
    """

    name: str
    devices: tuple[Any, ...]
    chip: Chip | None
    slices: int = 1
    gpu: Gpu | None = None

    @property
    def capacity(self) -> float | None:
        """GiB of a device that a program can use; None if unknown."""
        if self.gpu is not None:
            return self.gpu.capacity
        return None if self.chip is None else self.chip.hbm

    @property
    def slice_name(self) -> str:
        """Word for what the data-centre network connects."""
        return "slice" if self.gpu is None else "node"

    def nodes(self, mesh: Mesh) -> list[int]:
        """Return the node of each GPU of a mesh, in its order; empty for others.

        Programs for TPU slices are those of one slice.
        """
        if self.gpu is None or self.slices == 1:
            return []
        return [device.process_index for device in mesh.devices.flat]


def parse_topology(name: str) -> tuple[str, tuple[int, ...]]:
    """Parse "v5e:4x4" into generation and bounds: ("v5e", (4, 4)).

    Raises:
        TopologyError: the name is not cpu:N, GPUs of a node, or a TPU generation with
            bounds.
    """
    match = re.fullmatch(r"(\w+):(\d{1,5}(?:x\d{1,5}){0,2})", name)
    kinds = ("cpu", *GPUS, *CHIPS)
    if match is None or match[1] not in kinds or 0 in map(int, match[2].split("x")):
        raise TopologyError(
            f"--topology is {shown(name)}; expected cpu:N, or a generation and its "
            f"bounds such as v5e:4x4 or v5p:2x2x4 (generations: {', '.join(CHIPS)}), "
            f"or GPUs of a node such as h100:8 (models: {', '.join(GPUS)})"
        )
    bounds = tuple(map(int, match[2].split("x")))
    if match[1] == "cpu" and bounds[0] > MOST_CPU_DEVICES:
        raise TopologyError(
            f"--topology is {name!r}; expected at most cpu:{MOST_CPU_DEVICES}"
        )
    if match[1] == "cpu" and len(bounds) != 1:
        raise TopologyError(f"--topology is {name!r}; expected cpu:N, such as cpu:8")
    if match[1] in GPUS and (len(bounds) != 1 or bounds[0] > MOST_GPUS_PER_NODE):
        raise TopologyError(
            f"--topology is {name!r}; expected the GPUs of a node, such as "
            f"{match[1]}:8, and at most {MOST_GPUS_PER_NODE}; several nodes: "
            "--num-slices"
        )
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
        name: topology name, such as "v5e:4x4", "h100:8" or "cpu:8".
        slices: number of TPU slices with these bounds, or of nodes of GPUs.

    Raises:
        TopologyError: there is no such topology.
        UnavailableTopology: the compiler is not installed, or jax was initialized with
            fewer CPU devices.
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
    if kind in GPUS:
        devices = _gpu_devices(name, GPUS[kind], slices, bounds[0])
        return Topology(name, devices, None, slices, GPUS[kind])
    return Topology(name, _tpu_devices(name, kind, bounds, slices), CHIPS[kind], slices)


def _tpu_devices(
    name: str, kind: str, bounds: tuple[int, ...], slices: int
) -> tuple[Any, ...]:
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
    return tuple(description.devices)


def _gpu_devices(name: str, gpu: Gpu, nodes: int, gpus: int) -> tuple[Any, ...]:
    """Look up GPUs, numbered node by node, with jax's CUDA compiler."""
    jax_version = importlib.metadata.version("jax")
    found = {package: _version(package) for package in _CUDA_PACKAGES}
    if set(found.values()) != {jax_version}:
        listed = ", ".join(f"{k} {v or 'missing'}" for k, v in found.items())
        wanted = " ".join(f"{package}=={jax_version}" for package in _CUDA_PACKAGES)
        raise UnavailableTopology(
            f"{name} needs jax's CUDA compiler in the version of jax, {jax_version}; "
            f"found {listed}: pip install --no-deps {wanted} (no GPU is needed), or "
            "use --topology cpu:8"
        )
    from jax.experimental import topologies

    description = topologies.get_topology_desc(
        platform="cuda",
        target_config=gpu.target_config(),
        topology=f"1x{nodes}x{gpus}",
    )
    return tuple(description.devices)


_CUDA_PACKAGES = ("jax-cuda12-plugin", "jax-cuda12-pjrt")


def _version(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_devices(count: int) -> tuple[Any, ...]:
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise UnavailableTopology(
            f"--topology is cpu:{count}, but jax has {len(devices)} CPU devices; set "
            f"jax_num_cpu_devices to {count} before jax initializes"
        )
    return tuple(devices[:count])
