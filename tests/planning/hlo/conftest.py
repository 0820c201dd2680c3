"""Fixtures that compile small functions for eight CPU devices."""

import jax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from targetsft_jax.planning.hlo import read


@pytest.fixture(scope="session")
def mesh():
    """Mesh of 2 x 4 devices with axes x and y."""
    return jax.make_mesh((2, 4), ("x", "y"), axis_types=(AxisType.Auto,) * 2)


@pytest.fixture(scope="session")
def compile_local(mesh):
    """Compile a function of per-device rows; returns the `Program`."""

    def compile_function(function, *shapes, nodes=()):
        local = jax.shard_map(
            function, mesh=mesh, in_specs=P(("x", "y")), out_specs=P(), check_vma=False
        )
        arrays = [jax.ShapeDtypeStruct(shape, "float32") for shape in shapes]
        return read(jax.jit(local).lower(*arrays).compile().as_text(), nodes)

    return compile_function
