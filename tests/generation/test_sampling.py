"""Next-token choice against sorting, and domains of the settings."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.generation.sampling import (
    SamplingPlan,
    SamplingSettings,
    next_token,
    nucleus_logits,
    top_k_logits,
)


def random_logits(rows=50, tokens=300):
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(rows, tokens)).astype(np.float32)


def test_nucleus_equals_sorting():
    logits = random_logits()
    for top_p in (0.1, 0.5, 0.9, 0.999):
        nucleus = np.isfinite(nucleus_logits(jnp.asarray(logits), jnp.float32(top_p)))
        for row, mask in zip(logits.astype(np.float64), nucleus):
            probabilities = np.sort(np.exp(row) / np.exp(row).sum())[::-1]
            size = 1 + np.searchsorted(np.cumsum(probabilities), top_p)
            assert mask.sum() == size
            assert row[mask].min() > np.delete(row, np.flatnonzero(mask)).max()


def test_top_k_equals_sorting_and_keeps_ties():
    logits = random_logits(5, 20)
    for k in (1, 7, 20):
        masked = np.asarray(top_k_logits(jnp.asarray(logits), k))
        for row, mask in zip(logits, np.isfinite(masked)):
            assert set(np.flatnonzero(mask)) == set(np.argsort(-row)[:k].tolist())
    ties = jnp.asarray([[1.0, 3.0, 1.0, 0.0]])
    assert np.isfinite(top_k_logits(ties, 2)).tolist() == [[True, True, True, False]]


def test_greedy_ignores_keys_and_temperature():
    logits = jnp.asarray(random_logits(5, 20))
    keys = jax.random.split(jax.random.key(0), 5)
    plan = SamplingPlan(greedy=True, nucleus=False, top_k=0)
    tokens = next_token(logits, keys, plan, jnp.float32(0), jnp.float32(1))
    assert tokens.dtype == jnp.int32
    np.testing.assert_array_equal(tokens, np.argmax(logits, axis=-1))


@pytest.mark.parametrize(
    "setting, value, expected",
    [
        ("samples", 0, "1 or more"),
        ("max_new_tokens", 0, "1 or more"),
        ("temperature", -1.0, "0 or more"),
        ("temperature", float("nan"), "0 or more"),
        ("top_p", 0.0, r"\(0, 1\]"),
        ("top_p", 1.5, r"\(0, 1\]"),
        ("top_k", -1, "0 or more"),
    ],
)
def test_settings_outside_their_domain_are_refused(setting, value, expected):
    settings = dataclasses.replace(SamplingSettings(), **{setting: value})
    with pytest.raises(
        ValueError, match=f"{setting} is {value}; expected .*{expected}"
    ):
        settings.check()


def test_defaults_are_in_their_domains():
    SamplingSettings().check()
