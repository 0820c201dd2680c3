"""Rotary embeddings: relative angles, partial rotation, and scaled frequencies."""

import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.models.rope import (
    DynamicScaling,
    LinearScaling,
    LongRopeScaling,
    NtkScaling,
    RopeScaling,
    YarnScaling,
    frequencies,
    long_texts,
    query_scale,
    rotate,
    rotation,
)


def test_frequencies_by_their_formula():
    expected = [10_000 ** (-2 * i / 8) for i in range(4)]
    np.testing.assert_allclose(frequencies(8, 10_000), expected, rtol=1e-6)


def test_products_depend_on_the_difference_of_positions():
    rng = np.random.default_rng(0)
    query, key = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), "f4") for _ in range(2))

    def product(p, q):
        at = [rotation(jnp.asarray([[n]]), 8, 100.0) for n in (p, q)]
        return float(jnp.sum(rotate(query, at[0]) * rotate(key, at[1])))

    assert product(5, 2) == pytest.approx(product(13, 10), rel=1e-5)
    assert abs(product(5, 2) - product(5, 3)) > 1e-3


def test_further_features_are_unchanged():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 1, 12)), "f4")
    rotated = rotate(x, rotation(jnp.asarray([[3, 4]]), 8, 100.0))
    np.testing.assert_array_equal(rotated[..., 8:], x[..., 8:])
    complex_pairs = np.asarray(x[..., :4]) + 1j * np.asarray(x[..., 4:8])
    angles = np.asarray([3, 4])[None, :, None, None] * frequencies(8, 100.0)
    expected = complex_pairs * np.exp(1j * angles)
    np.testing.assert_allclose(rotated[..., :4], expected.real, atol=1e-5)
    np.testing.assert_allclose(rotated[..., 4:8], expected.imag, atol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [RopeScaling(8.0, 1.0, 4.0, 256), YarnScaling(8.0, 256, truncate=False)],
)
def test_scaling_divides_low_frequencies_only(scaling):
    plain = frequencies(64, 10_000.0).astype(np.float64)
    ratio = plain / frequencies(64, 10_000.0, scaling)
    assert ratio[0] == pytest.approx(1) and ratio[-1] == pytest.approx(8)
    assert (np.diff(ratio) > -1e-6).all()


def test_linear_scaling_divides_all_frequencies():
    scaled = frequencies(8, 100.0, LinearScaling(4.0))
    np.testing.assert_allclose(4 * scaled, frequencies(8, 100.0), rtol=1e-6)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: LinearScaling(0), "factor is 0"),
        (lambda: RopeScaling(8.0, 4.0, 4.0, 256), "high_freq_factor above"),
        (lambda: YarnScaling(8.0, -1), "original_max_position_embeddings is -1"),
    ],
)
def test_invalid_scalings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_longrope_divides_by_its_factors():
    scaling = LongRopeScaling((1.0, 2.0), (3.0, 5.0), 16, factor=4.0)
    plain = frequencies(4, 100.0)
    for long, factors in ((False, (1.0, 2.0)), (True, (3.0, 5.0))):
        scaled = frequencies(4, 100.0, scaling, long=long)
        np.testing.assert_allclose(scaled * factors, plain, rtol=1e-6)
    # log(4) / log(16) = 1/2
    assert scaling.magnitude == pytest.approx(1.5**0.5)
    segments = jnp.asarray([[1] * 17 + [2, 2, 0], [1] * 4 + [2] * 16])
    expected = [[True] * 17 + [False] * 3, [False] * 20]
    np.testing.assert_array_equal(long_texts(scaling, segments), expected)
    assert long_texts(scaling, segments[:, :16]) is None
    assert long_texts(LinearScaling(4.0), segments) is None


def test_ntk_scaling_stretches_the_base():
    scaled = frequencies(8, 100.0, NtkScaling(5.0))
    np.testing.assert_allclose(scaled, frequencies(8, 100.0 * 5 ** (8 / 6)), rtol=1e-6)


def test_dynamic_scaling_has_no_effect_up_to_its_context_and_longer_rows_are_refused():
    scaling = DynamicScaling(6.0, 16)
    np.testing.assert_array_equal(frequencies(8, 1e4, scaling), frequencies(8, 1e4))
    segments = jnp.ones((2, 17), jnp.int32)
    assert long_texts(scaling, segments[:, :16]) is None
    with pytest.raises(ValueError, match="rows have 17 tokens.*data.max_length to 16"):
        long_texts(scaling, segments)


def test_queries_are_scaled_from_the_second_context_on():
    scaling = YarnScaling(4.0, 16, llama_4_scaling_beta=0.5)
    positions = jnp.asarray([[0, 15, 16, 47]])
    expected = 1 + 0.5 * np.log([1, 1, 2, 3])
    factors = query_scale(scaling, positions)
    np.testing.assert_allclose(factors[0, :, 0, 0], expected, rtol=1e-6)
    assert query_scale(scaling, positions, longest=16) is None
    assert query_scale(YarnScaling(4.0, 16), positions) is None
