"""Grouped products and their gradients equal one product per row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models import grouped_dot
from targetsft_jax.models.grouped_dot import BLOCK

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
    # The accelerators' product of the same gradient.
    ragged = jax.jit(grouped_dot._ragged_gradient)(rows, cotangent, jnp.asarray(sizes))
    np.testing.assert_allclose(ragged, of_matrices, atol=1e-4)
