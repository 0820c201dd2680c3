"""What one device of each TPU generation offers: published figures of the vendor."""

from collections.abc import Mapping
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device as jax counts them.

    Attributes:
        memory: bytes of HBM that the compiler gives a program.
        flops: bfloat16 operations a second, at peak.
        bandwidth: HBM bytes a second.
        links: bytes a second that it sends to its neighbours, all links together.
    """

    memory: float
    flops: float
    bandwidth: float
    links: float


# cloud.google.com/tpu/docs, system architecture: peak compute, HBM capacity and
# bandwidth, and inter-chip bandwidth (given there for both directions; half of it
# here). The compiler keeps a quarter of a GiB of each GiB 16 for itself.
CHIPS: Mapping[str, Chip] = {
    "v4": Chip(31.75 * GIB, 275e12, 1228e9, 150e9),
    "v5e": Chip(15.75 * GIB, 197e12, 819e9, 100e9),
    "v5p": Chip(94.75 * GIB, 459e12, 2765e9, 300e9),
    "v6e": Chip(31.25 * GIB, 918e12, 1640e9, 224e9),
}
