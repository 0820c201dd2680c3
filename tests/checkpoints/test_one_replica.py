"""One replica reads a state for all: bit for bit what each would have read itself."""

import subprocess
import sys

import pytest
from support import launched

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from targetsft_jax.checkpoints import manager, one_replica, verification
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.parallel import processes
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.storage.run_dir import RunDir
from pathlib import Path

folder, address, process = sys.argv[1:]
processes.initialize(address, 4, int(process), timeout=60)
mesh = make_mesh(data=2, fsdp=4)   # 4 processes of 2 devices: 2 processes a replica

def array(shape, spec, dtype):
    values = np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)
    values.flat[0], values.flat[1] = -0.0, np.nan
    values = values.astype(dtype) if dtype != bool else values > 0
    return jax.make_array_from_callback(
        shape, NamedSharding(mesh, spec), lambda index: values[index])

arrays = {
    "params": {"layers": {"w": array((2, 8, 6), P(None, "fsdp"), np.float32)},
               "norm": array((6,), P(), jnp.bfloat16)},
    "optimizer": {"step": jax.device_put(jnp.int32(7), NamedSharding(mesh, P())),
                  "mask": array((8,), P("fsdp"), bool)},
}
like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arrays)
run_dir = RunDir(Path(folder))
checkpoints = manager.Checkpoints(run_dir, Retention(2))
checkpoints.save(arrays, Position(1, 3, 8, "data"), {})
checkpoints.wait()

read = []
real = verification.StateReader.arrays
def counted(self, step, part):
    read.append(step)
    return real(self, step, part)
verification.StateReader.arrays = counted
for limit, readers in ((2**30, [1, 1, 1, 1]), (0, [1, 1, 0, 0])):
    one_replica.LARGE_BYTES = limit
    read.clear()
    restored, step = checkpoints.restore(like, Position(0, 3, 8, "data"))
    assert step == 1 and len(read) == readers[int(process)], (limit, read)
    for one, other in zip(jax.tree.leaves(restored), jax.tree.leaves(arrays)):
        assert one.sharding == other.sharding and one.dtype == other.dtype
        for a, b in zip(one.addressable_shards, other.addressable_shards):
            assert np.asarray(a.data).tobytes() == np.asarray(b.data).tobytes()
# A replica that cannot read lets no other wait.
if int(process) == 1:
    def damaged(self, step, part):
        raise OSError("damaged")
    verification.StateReader.arrays = damaged
try:
    checkpoints.restore(like, Position(0, 3, 8, "data"))
except ValueError as error:
    assert "OSError: damaged" in str(error)
else:
    raise AssertionError
checkpoints.close()
print("equal")
"""


@pytest.mark.slow
def test_one_of_two_replicas_reads_for_both(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    address = f"127.0.0.1:{launched.free_port()}"
    variables = launched.environment(tmp_path / "compiled") | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2"
    }
    command = [sys.executable, str(program), str(tmp_path / "run"), address]
    jobs = [
        subprocess.Popen(
            [*command, str(number)],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(4)
    ]
    try:
        said = [job.communicate(timeout=120)[0] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert all(text.rstrip().endswith("equal") for text in said), "\n".join(said)
