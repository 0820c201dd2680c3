"""Int8 products and parameters, against numpy in float64 and int64."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rig

from targetsft_jax.models import decoder, int8
from targetsft_jax.models.ring import empty_cache
from targetsft_jax.models.unstacked import decoding_weights
from targetsft_jax.parallel import rules


def _rounded(x, axis):
    largest = np.abs(x).max(axis, keepdims=True)
    scale = np.where(largest == 0, 1, largest / 127)
    return np.rint(x / scale).astype(np.int64), scale


def test_a_product_is_that_of_the_rounded_operands():
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 5, 96)), rng.normal(size=(96, 40))
    x[0, 0], kernel[:, 3] = 0, 0  # no scale
    x[1, 2, 7] *= 500  # an outlier, which coarsens its own token alone
    (a, of_x), (b, of_kernel) = _rounded(x, -1), _rounded(kernel, 0)
    expected = (a @ b) * of_x * of_kernel
    pair = int8.quantised(jnp.asarray(kernel, "f4"))
    assert (pair[0].dtype, pair[1].dtype) == (jnp.int8, jnp.float32)
    actual = int8.int8_product(jnp.asarray(x, "f4"), *pair)
    np.testing.assert_allclose(actual, expected, rtol=2e-6, atol=1e-6)
    # Half a step of either operand, times the other one's sum.
    steps = of_x * np.abs(kernel).sum(0) + of_kernel * np.abs(x).sum(-1, keepdims=True)
    bound = (steps + of_x * of_kernel * 96 / 2) / 2
    assert (np.abs(actual - x @ kernel) <= bound + 1e-6).all()
    narrow = int8.int8_product(jnp.asarray(x, "bfloat16"), *pair)
    assert narrow.dtype == jnp.bfloat16


@pytest.mark.parametrize("experts", [{}, {"num_experts": 4, "expert_size": 24}])
def test_shapes_and_axes_are_those_of_the_parameters(experts):
    if experts:
        experts = {**experts, "experts_per_token": 2}
    config = replace(rig.OTHER, **experts)
    axes, mesh = decoder.logical_axes(config), rig.one_device()
    params = jax.tree.map(jnp.array, rig.params_of(config))
    params = jax.device_put(params, rules.shardings(axes, params, mesh))
    kernel = rig.params_of(config)["layers"]["attention"]["k"]["kernel"]
    given = params["layers"]["attention"]["k"]["kernel"]
    made = int8.int8_params(params, axes, mesh)
    assert given.is_deleted() and not params["embed"].is_deleted()
    shapes = int8.int8_shapes(decoder.abstract_params(config))
    as_shape = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), made)
    assert as_shape == shapes
    names = int8.int8_axes(axes)
    jax.tree.map(lambda shape, axes: rules.spec(axes, shape.shape, mesh), shapes, names)
    key = made["layers"]["attention"]["k"]
    expected, scale = _rounded(kernel.astype(np.float64), 1)
    assert np.abs(np.asarray(key["kernel"], int) - expected).max() <= 1  # at a tie
    np.testing.assert_allclose(key["kernel_scale"], scale[:, 0], rtol=1e-6)
    floats = {x.dtype for x in jax.tree.leaves({**made, "layers": {}})}
    assert floats == {jnp.dtype("float32")}


@pytest.mark.slow
def test_decoding_keeps_the_scales():
    """Unstacked and joined projections give the hidden states of whole rows."""
    config, mesh = rig.STUDENT, rig.one_device()
    params = jax.tree.map(jnp.array, rig.params_of(config))
    axes = decoder.logical_axes(config)
    params = jax.device_put(params, rules.shardings(axes, params, mesh))
    params = int8.int8_params(params, axes, mesh)
    weights = decoding_weights(params, jnp.float32)
    assert weights.layer(0)["attention"]["qkv"]["kernel"].dtype == jnp.int8
    tokens = jnp.arange(3, 9, dtype=jnp.int32)[None]
    expected = decoder.apply(config, params, tokens)
    caches = empty_cache(config, 1, tokens.shape[1])
    step = jax.jit(partial(decoder.apply_token, config))
    for place in range(tokens.shape[1]):
        number = jnp.full((1,), place, jnp.int32)
        hidden, caches = step(weights, tokens[:, place], number, number[0], caches)
        # A rounding of float32 may move an activation by one step of int8.
        assert np.abs(hidden - expected[:, place]).mean() < 1e-2
