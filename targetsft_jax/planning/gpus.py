"""GPUs as the compiler sees them: the facts from which XLA compiles without one.

Values are those of OpenXLA's files xla/backends/gpu/target_config/specs/*.txtpb
(h100_sxm, h200, b200; September 2026). Rates are used by the compiler's heuristics
only: without the GPU, matrix products are not tuned, so a plan for GPUs has no bounds
of time.
"""

from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One GPU model.

    Attributes:
        name: as in topology names.
        title: name of the device.
        capability: compute capability, major and minor.
        cores: streaming multiprocessors.
        memory: bytes of device memory.
        bandwidth: bytes/s of device memory.
        l2: bytes of L2 cache.
        clock: GHz.
        pcie: bytes/s.
    """

    name: str
    title: str
    capability: tuple[int, int]
    cores: int
    memory: int
    bandwidth: int
    l2: int
    clock: float
    pcie: int

    @property
    def capacity(self) -> float:
        """GiB of device memory."""
        return self.memory / GIB

    def target_config(self) -> str:
        """Text of XLA's GpuTargetConfigProto, without optional fields."""
        major, minor = self.capability
        cudnn = dict(zip(("major", "minor", "patch"), CUDNN))
        version = " ".join(f"{name}: {number}" for name, number in cudnn.items())
        return f"""\
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  core_count: {self.cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {self.bandwidth}
  l2_cache_size: {self.l2}
  clock_rate_ghz: {self.clock}
  device_memory_size: {self.memory}
  pcie_bandwidth: {self.pcie}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  device_vendor: "NVIDIA Corporation"
  name: "{self.title}"
  device_address_bits: 64
  ecc_enabled: true
  driver_version: "13.0.0"
  runtime_version: "12.8.0"
  dnn_version: "{".".join(map(str, CUDNN))}"
}}
platform_name: "CUDA"
dnn_version_info {{ {version} }}
device_description_str: "{self.title}"
"""


CUDNN = (9, 10, 0)
"""Version of cuDNN that programs are compiled for."""

GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "h100",
            "NVIDIA H100 80GB HBM3",
            (9, 0),
            cores=132,
            memory=84_942_979_072,
            bandwidth=3_352_320_000_000,
            l2=52_428_800,
            clock=1.98,
            pcie=34_359_738_368,
        ),
        Gpu(
            "h200",
            "NVIDIA H200 141GB HBM3e",
            (9, 0),
            cores=132,
            memory=151_397_597_184,
            bandwidth=4_800_000_000_000,
            l2=52_428_800,
            clock=1.98,
            pcie=34_359_738_368,
        ),
        Gpu(
            "b200",
            "NVIDIA B200",
            (10, 0),
            cores=148,
            memory=191_514_411_008,
            bandwidth=7_672_320_000_000,
            l2=132_644_864,
            clock=1.965,
            pcie=68_719_476_736,
        ),
    )
}
