"""Rounding: the stated errors, cleared bits, and values that stay."""

import numpy as np
import pytest

from targetsft_jax.inspection.rounding import rounded, rounded_logs


@pytest.mark.parametrize("bits", [10, 12, 16, 23])
def test_rounding_keeps_the_stated_precision(bits: int) -> None:
    random = np.random.default_rng(0)
    values = (random.normal(size=2000) * 10.0 ** random.integers(-30, 30, 2000)).astype(
        np.float32
    )
    result = rounded(values, bits)
    error = np.abs(result.astype(np.float64) / values - 1)
    assert error.max() <= 2.0 ** -(bits + 1)
    cleared = result.view(np.uint32) & np.uint32((1 << (23 - bits)) - 1)
    assert not cleared.any()


def test_rounding_keeps_zeros_infinities_and_nan() -> None:
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(rounded(values, 12), values)


def test_rounded_logs_keep_probabilities_and_their_complements() -> None:
    random = np.random.default_rng(1)
    logs = -np.exp(random.uniform(-15, 3, 5000)).astype(np.float32)
    step, bits = 2.0**-11, 13
    result = rounded_logs(logs, step, bits).astype(np.float64)
    assert np.abs(result - logs).max() <= step / 2
    assert np.abs(np.expm1(result) / np.expm1(logs.astype(np.float64)) - 1).max() < 2e-4
    coarse = result[np.abs(logs) >= step * 2**bits]
    np.testing.assert_array_equal(coarse, np.round(coarse / step) * step)
