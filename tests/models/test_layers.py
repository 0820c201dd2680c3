"""Small layers against numpy in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models.layers import rms_norm, soft_cap

X = np.random.default_rng(0).normal(size=(3, 8))
SCALE = np.random.default_rng(1).normal(size=8)


@pytest.mark.parametrize("unit_offset", [False, True])
def test_rms_norm(unit_offset):
    rms = np.sqrt(np.mean(X**2, axis=-1, keepdims=True) + 0.1)
    expected = X / rms * (1 + SCALE if unit_offset else SCALE)
    actual = rms_norm(jnp.asarray(X, "f4"), jnp.asarray(SCALE, "f4"), 0.1, unit_offset)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert rms_norm(jnp.ones(8, "bfloat16"), jnp.ones(8), 0.1).dtype == jnp.bfloat16


def test_soft_cap():
    x = jnp.asarray([-100.0, -1.0, 0.0, 0.01, 100.0])
    assert soft_cap(x, None) is x
    np.testing.assert_allclose(soft_cap(x, 3.0), 3 * np.tanh(x / 3), rtol=1e-6)
    assert np.abs(soft_cap(x, 3.0)).max() <= 3
