"""Token lookup in a sharded table, and group sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from targetsft_jax.parallel.mesh import make_mesh, tokens_over
from targetsft_jax.parallel.rules import shardings
from targetsft_jax.parallel.vocabulary import (
    best_group,
    group_sizes,
    lookup,
    with_groups,
)

V = 29
TOKENS = np.random.default_rng(0).integers(0, V, (8, 8)).astype(np.int32)

# (data, fsdp, tensor, context) and group: every axis alone, and all of them.
MESHES = [
    ((1, 1, 1, 1), 1),
    ((8, 1, 1, 1), 1),
    ((1, 8, 1, 1), 1),
    ((1, 8, 1, 1), 4),
    ((1, 8, 1, 1), 8),
    ((1, 1, 8, 1), 1),
    ((2, 2, 2, 1), 2),
    ((1, 4, 2, 1), 2),
    ((1, 1, 1, 8), 4),
    ((1, 2, 2, 2), 1),
    ((1, 4, 1, 2), 4),
]


# 16 divides by all axes, 12 by some of them, 7 by none.
@pytest.mark.sweep(4)
@pytest.mark.parametrize("width", [16, 12, 7])
@pytest.mark.parametrize("shape, group", MESHES)
def test_lookup_and_its_gradient_equal_indexing(shape, group, width):
    *sizes, context = shape
    devices = jax.devices()[: np.prod(shape)]
    mesh = make_mesh(*sizes, devices, context=context)
    rng = np.random.default_rng(1)
    table = jnp.asarray(rng.normal(size=(V, width)), jnp.float32)
    probe = jnp.asarray(rng.normal(size=(*TOKENS.shape, width)), jnp.float32)
    sharding = shardings({"t": ("vocab", "table")}, {"t": table}, mesh)["t"]

    @jax.jit
    def run(table, tokens):
        def value(table):
            rows = lookup(table, tokens, with_groups(mesh, group), jnp.float32)
            return jnp.sum(rows * probe), rows

        return jax.grad(value, has_aux=True)(table)

    rows = tokens_over(mesh)
    gradient, rows_of_table = run(
        jax.device_put(table, sharding), jax.device_put(TOKENS, rows)
    )
    np.testing.assert_array_equal(rows_of_table, np.asarray(table)[TOKENS])
    expected = jax.grad(lambda t: jnp.sum(t[TOKENS] * probe))(table)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-5)
    assert gradient.sharding.is_equivalent_to(sharding, 2)


def test_a_bfloat16_result_has_a_float32_gradient_sum():
    """A thousand equal tokens: bfloat16 sums would stop growing at 256."""
    mesh = make_mesh(1, 8, 1)
    tokens = jnp.zeros((8, 128), jnp.int32)

    def value(table):
        return lookup(table, tokens, with_groups(mesh, 4), jnp.bfloat16).sum()

    gradient = jax.jit(jax.grad(value))(jnp.ones((V, 16)))
    assert gradient.dtype == jnp.float32
    np.testing.assert_array_equal(gradient[0], np.full(16, 1024.0))


def test_tokens_are_moved_and_not_the_table():
    """No array has the full table, or the full width of all tokens."""
    mesh = make_mesh(1, 8, 1)

    def run(table, tokens):
        return lookup(table, tokens, with_groups(mesh, 8), jnp.float32)

    def array(*size, dtype, spec):
        return jax.ShapeDtypeStruct(size, dtype, sharding=NamedSharding(mesh, spec))

    table = array(V, 16, dtype="float32", spec=P(None, "fsdp"))
    tokens = array(64, 5, dtype="int32", spec=P("fsdp"))
    text = jax.jit(run).lower(table, tokens).compile().as_text()
    assert f"f32[{V},2]" in text and "all-to-all" in text
    assert f"f32[{V},16]" not in text and "f32[64,5,16]" not in text


def test_the_group_grows_with_the_vocabulary_and_shrinks_with_tokens():
    mesh = make_mesh(1, 8, 1)

    def group(tokens, vocabulary=152_064):
        return best_group(mesh, tokens, vocabulary, 3584, 3584)

    assert [group(n) for n in (512, 4096, 16_384, 131_072)] == [8, 8, 4, 1]
    assert group(4096, vocabulary=4096) == 1
    # A frozen head has no gradient to share.
    frozen = {"head_gradient": False}
    assert best_group(mesh, 16_384, 152_064, 3584, 3584, **frozen) == 2
    # A tensor axis splits the vocabulary already, so groups are smaller.
    assert best_group(make_mesh(1, 2, 4), 4096, 152_064, 3584, 3584) == 2
    assert best_group(make_mesh(1, 2, 4), 16_384, 152_064, 3584, 3584) == 1


def test_a_group_is_of_neighbours_on_the_context_axis_first():
    mesh = make_mesh(1, 2, 1, context=4)
    assert group_sizes(mesh) == [1, 2, 4, 8]
    for group, rows, columns in ((2, 1, 2), (4, 1, 4), (8, 2, 4)):
        split = with_groups(mesh, group)
        assert (split.shape["fsdp"], split.shape["context"]) == (rows, columns)
        # Devices of a group are numbered one after the other.
        numbers = [device.id for device in split.devices.flat]
        assert numbers == [device.id for device in mesh.devices.flat]
    assert group_sizes(make_mesh(1, 4, 1, jax.devices()[:4])) == [1, 2, 4]
    with pytest.raises(ValueError, match="divisor of mesh.context = 4.* 1, 2, 4, 8"):
        with_groups(mesh, 3)


def test_a_group_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match="vocab_group is 3.*mesh.fsdp = 8: 1, 2, 4, 8"):
        with_groups(make_mesh(1, 8, 1), 3)
