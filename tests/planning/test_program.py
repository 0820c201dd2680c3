"""The reader of compiled programs, against programs counted by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from targetsft_jax.planning.program import Shape, read


def _mesh():
    return jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)


def _read(function, *shapes, spec):
    arrays = [
        jax.ShapeDtypeStruct(s, jnp.float32, sharding=jax.NamedSharding(_mesh(), spec))
        for s in shapes
    ]
    return read(jax.jit(function).lower(*arrays).compile().as_text())


def test_collectives_know_their_loops_groups_and_bytes():
    def local(x):
        def step(total, row):
            return total + jax.lax.psum(row, "b"), None

        total, _ = jax.lax.scan(step, jnp.zeros(x.shape[1]), x)
        return total + jax.lax.all_gather(x, "a").sum((0, 1))

    def run(x):
        return jax.shard_map(
            local, mesh=_mesh(), in_specs=P("a"), out_specs=P(), check_vma=False
        )(x)

    program = _read(run, (12, 32), spec=P("a"))
    found = {c.kind: c for c in program.collectives}
    inside, outside = found["all-reduce"], found["all-gather"]
    # Six rows of 32 numbers on each device; four devices on b, two on a.
    assert (inside.trips, inside.group, inside.shapes) == (6, 4, (Shape("f32", (32,)),))
    assert inside.bytes == 2 * 32 * 4 * 3 // 4 and inside.total == 6 * inside.bytes
    assert (outside.trips, outside.group) == (1, 2) and not outside.loops
    assert outside.bytes == 6 * 32 * 4


def test_products_are_counted_as_often_as_they_run():
    def run(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    program = _read(run, (8, 16), (5, 16, 16), spec=P())
    assert program.flops == 5 * 2 * 8 * 16 * 16
    assert not program.unknown_loops


def test_a_loop_whose_length_is_data_is_named():
    def run(x):
        count = x[0, 0].astype(jnp.int32)
        return jax.lax.fori_loop(0, count, lambda _, y: y @ y, x)

    program = _read(run, (8, 8), spec=P())
    assert len(program.unknown_loops) == 1 and program.dots[0].trips is None


def test_largest_arrays():
    program = _read(lambda x: jnp.sort(jnp.outer(x, x)), (64,), spec=P())
    assert program.largest(1)[0].shape == Shape("f32", (64, 64))
    assert Shape("f32", (64,)) in program.shapes()


def test_what_is_no_program_is_refused():
    with pytest.raises(ValueError, match="as_text"):
        read("module @jit_f {}")
