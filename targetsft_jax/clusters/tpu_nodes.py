"""TPU nodes of GKE: labels, and the arithmetic of chips, hosts and slices.

Sources: cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus, and
`system_characteristics.py` of github.com/AI-Hypercomputer/xpk.
"""

import math
from dataclasses import dataclass

from targetsft_jax.command import UsageError
from targetsft_jax.keys import shown

_CHIPS_PER_HOST = 4
_ACCELERATORS = {
    "v4": ("tpu-v4-podslice", 3),
    "v5e": ("tpu-v5-lite-podslice", 2),
    "v5p": ("tpu-v5p-slice", 3),
    "v6e": ("tpu-v6e-slice", 2),
    "tpu7x": ("tpu7x", 3),
}
"""Generation -> the label of its nodes, and the dimensions of its topologies."""


@dataclass(frozen=True)
class TpuSlices:
    """Equal slices of TPU hosts.

    Attributes:
        accelerator: value of the node label cloud.google.com/gke-tpu-accelerator.
        topology: chips of a slice in each dimension, such as "4x4".
        slices: number of slices.
        chips_per_host: chips of a host, which one process uses.
    """

    accelerator: str
    topology: str
    slices: int
    chips_per_host: int

    @property
    def chips_per_slice(self) -> int:
        """Product of the topology."""
        return math.prod(map(int, self.topology.split("x")))

    @property
    def hosts_per_slice(self) -> int:
        """Processes of a slice."""
        return self.chips_per_slice // self.chips_per_host

    @property
    def chips(self) -> int:
        """Chips of all slices."""
        return self.slices * self.chips_per_slice


def tpu_slices(generation: str, bounds: tuple[int, ...], slices: int = 1) -> TpuSlices:
    """Return the nodes of slices with these bounds: hosts of four chips, or one host.

    Args:
        generation: such as "v5e".
        bounds: chips in each dimension, such as (4, 4).
        slices: number of slices.

    Raises:
        UsageError: no such nodes exist.
    """
    label, dimensions = _ACCELERATORS[generation]
    topology = "x".join(map(str, bounds))
    if len(bounds) != dimensions:
        example = "4x4" if dimensions == 2 else "2x2x4"
        raise UsageError(
            f"--topology is {generation}:{topology}; expected {dimensions} dimensions, "
            f"such as {generation}:{example}"
        )
    chips = math.prod(bounds)
    if chips > _CHIPS_PER_HOST and chips % _CHIPS_PER_HOST:
        raise UsageError(
            f"--topology is {generation}:{topology}, {chips} chips; expected a "
            f"multiple of the {_CHIPS_PER_HOST} chips of a host"
        )
    if slices < 1:
        raise UsageError(f"--slices is {shown(slices)}; expected 1 or more")
    if slices > 1 and chips <= _CHIPS_PER_HOST:
        raise UsageError(
            f"--slices is {slices} and --topology is {generation}:{topology}, a single "
            "host; expected slices of several hosts, which GKE connects"
        )
    return TpuSlices(label, topology, slices, min(chips, _CHIPS_PER_HOST))
