"""Copies to the host, and `processes` in a single process.

Several processes are launched in tests/training/test_processes.py.
"""

import socket

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from targetsft_jax.parallel import processes
from targetsft_jax.parallel.mesh import make_mesh


def test_to_host_copies_every_leaf_of_a_tree():
    mesh = make_mesh(2, 2, 2)
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    sharding = jax.sharding.NamedSharding(mesh, P("fsdp", ("data", "tensor")))
    tree = {
        "sharded": jax.device_put(values, sharding),
        "bfloat16": [jnp.asarray(values[0], jnp.bfloat16)],
        "numpy": values[1],
    }
    host = processes.to_host(tree)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(host))
    np.testing.assert_array_equal(host["sharded"], values)
    assert host["bfloat16"][0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(host["bfloat16"][0], values[0].astype(jnp.bfloat16))
    np.testing.assert_array_equal(host["numpy"], values[1])


def test_a_single_process_is_primary_and_gathers_one_text():
    assert processes.is_primary() and not processes.is_multiprocess()
    assert processes.gather_text("α") == ["α"]


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1"])
def test_a_port_that_does_not_exist_is_refused(port):
    with pytest.raises(ValueError, match="a port from 1 to 65535"):
        processes.initialize(f"127.0.0.1:{port}", 2, 0, timeout=1)


@pytest.mark.parametrize(
    "family, address", [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_port_that_is_taken_is_refused(family, address):
    """Otherwise jax ends the process by a segmentation fault."""
    with socket.socket(family, socket.SOCK_STREAM) as other:
        other.bind((address, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConnectionError, match=f"cannot listen at port {port} of"):
            processes.initialize(f"localhost:{port}", 2, 0, timeout=1)
