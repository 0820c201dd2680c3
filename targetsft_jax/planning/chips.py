"""TPU generations: memory, peak FLOP/s and bandwidths of one device.

Memory is the limit of the compiler, which is below the data sheet. Rates are those of
the public data sheets (cloud.google.com/tpu/docs, system architecture), divided by two
where one chip is two jax devices. Two rates are those of "How to Scale Your Model",
part 2: the network between slices of v4, 25 GB/s per host of four chips, and PCIe, 16
GB/s per chip and 32 GB/s on v6e; of tpu7x it is unknown and taken as 16 GB/s.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One device of a TPU generation.

    Attributes:
        name: generation, as in topology names.
        hbm: GiB of HBM available to a program.
        flops: peak bfloat16 FLOP/s.
        hbm_bandwidth: bytes/s.
        ici_bandwidth: bytes/s sent, summed over all ICI links.
        dcn_bandwidth: bytes/s sent to other slices, the device's share of its host's
            network.
        host_bandwidth: bytes/s to or from the memory of the host, by PCIe.
        int8_rate: peak int8 operations/s; None: its data sheet has none, and products
            in int8 are taken to run at the rate of bfloat16.
    """

    name: str
    hbm: float
    flops: float
    hbm_bandwidth: float
    ici_bandwidth: float
    dcn_bandwidth: float
    host_bandwidth: float = 16e9
    int8_rate: float | None = None

    def compute_seconds(self, flops: float, int8: float = 0.0) -> float:
        """Return the seconds of products at peak rates.

        Args:
            flops: FLOPs of all products.
            int8: of them, those in int8.
        """
        return (flops - int8) / self.flops + int8 / (self.int8_rate or self.flops)


CHIPS = {
    chip.name: chip
    for chip in (
        # Half a chip of 275 TFLOP/s, 1228 GB/s and 2400 Gbit/s.
        Chip("v4", 15.25, 137.5e12, 614e9, 150e9, 3.125e9, 8e9),
        # 197 TFLOP/s, 393 TOP/s in int8, 819 GB/s, 1600 Gbit/s; 6.4 Tbit/s between
        # slices for 256 chips.
        Chip("v5e", 15.75, 197e12, 819e9, 200e9, 3.125e9, int8_rate=393e12),
        # 459 TFLOP/s, 2765 GB/s, 4800 Gbit/s; 50 Gbit/s between slices.
        Chip("v5p", 95.74, 459e12, 2765e9, 600e9, 6.25e9),
        # 918 TFLOP/s, 1836 TOP/s in int8, 1640 GB/s, 800 GB/s in both directions
        # together; 100 Gbit/s.
        Chip("v6e", 31.25, 918e12, 1640e9, 400e9, 12.5e9, 32e9, 1836e12),
        # Half a chip of 2307 TFLOP/s, 7380 GB/s, 1200 GB/s in both directions, and
        # 100 Gbit/s between slices.
        Chip("tpu7x", 94.75, 1153.5e12, 3690e9, 300e9, 6.25e9),
    )
}
