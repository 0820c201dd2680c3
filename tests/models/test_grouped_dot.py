"""Grouped products and their gradients equal one product per row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from targetsft_jax.models import grouped_dot
from targetsft_jax.models.grouped_dot import BLOCK
from targetsft_jax.planning.topology import get_topology

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "sizes", [(0, BLOCK + 30, 1, 5, 0), (3, 0, 4), (BLOCK, 0), (BLOCK + 2, BLOCK)]
)
def test_products_and_gradients(sizes):
    rows, matrices, cotangent = (
        jnp.asarray(RNG.normal(size=shape), jnp.float32)
        for shape in ((sum(sizes), 8), (len(sizes), 8, 6), (sum(sizes), 6))
    )
    group_of_row = np.repeat(np.arange(len(sizes)), sizes)

    def total(rows, matrices):
        result = grouped_dot.grouped_dot(rows, matrices, jnp.asarray(sizes))
        return jnp.vdot(result, cotangent), result

    (_, result), gradients = jax.jit(
        jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
    )(rows, matrices)
    x, w, g = (np.asarray(a, np.float64) for a in (rows, matrices, cotangent))
    of_matrices = np.zeros(w.shape)
    for row, group in enumerate(group_of_row):
        of_matrices[group] += np.outer(x[row], g[row])
    expected = {
        "product": np.einsum("mk,mkn->mn", x, w[group_of_row]),
        "rows": np.einsum("mn,mkn->mk", g, w[group_of_row]),
        "matrices": of_matrices,
    }
    for (name, value), ours in zip(expected.items(), (result, *gradients)):
        np.testing.assert_allclose(ours, value, atol=1e-4, err_msg=name)
    # The products of TPUs, one of them by the interpreter of kernels.
    groups = jnp.asarray(sizes, jnp.int32)
    ragged = jax.jit(grouped_dot._ragged_transposed)(cotangent, matrices, groups)
    np.testing.assert_allclose(ragged, expected["rows"], atol=1e-4)
    tiled = grouped_dot._tiled_gradient(rows, cotangent, groups, interpret=True)
    np.testing.assert_allclose(tiled, of_matrices, atol=1e-4)


@pytest.mark.libtpu
@pytest.mark.parametrize(
    "count, groups, width, size, dtype",
    [
        (4096, 16, 2048, 1408, "bfloat16"),
        # Fewer rows than a tile, and odd sizes.
        (100, 4, 640, 24, "float32"),
    ],
)
def test_tpus_multiply_a_row_by_the_matrix_of_its_group_alone(
    count, groups, width, size, dtype
):
    sharding = SingleDeviceSharding(get_topology("v5e:2x2").devices[0])

    def shape(*dims, dtype=dtype):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    def total(rows, matrices, sizes):
        return jnp.sum(grouped_dot.grouped_dot(rows, matrices, sizes) ** 2)

    arguments = (
        shape(count, width),
        shape(groups, width, size),
        shape(groups, dtype="i4"),
    )
    compiled = jax.jit(jax.grad(total, (0, 1))).lower(*arguments).compile()
    text = compiled.as_text()
    assert "tgmm" in text
    if dtype == "bfloat16":
        # Three products; with all matrices they have `groups` times the FLOPs.
        assert "ragged-dot" in text
        product = 2 * count * width * size
        assert compiled.cost_analysis()["flops"] < 3.5 * product


@pytest.mark.parametrize("platform, count", [("cpu", 0), ("cuda", 0), ("tpu", 2)])
def test_ragged_dot_is_for_tpus_alone(platform, count):
    """Elsewhere XLA computes it with all matrices for every row."""
    arguments = jnp.ones((70, 8)), jnp.ones((3, 8, 6)), jnp.array([30, 0, 40])

    def total(rows, matrices, sizes):
        return jnp.sum(grouped_dot.grouped_dot(rows, matrices, sizes) ** 2)

    traced = jax.jit(jax.grad(total, (0, 1))).trace(*arguments)
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count('"chlo.ragged_dot"') == count
    assert ("tgmm" in text) == (platform == "tpu")
