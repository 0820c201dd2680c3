"""Chunked logits against one product in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.rig import OTHER, STUDENT, params_of

from targetsft_jax.models import chunked_logits
from targetsft_jax.models.chunked_logits import logits_in_chunks
from targetsft_jax.models.decoder import apply, head

TOKENS = np.random.default_rng(0).integers(0, 264, 150).astype(np.int32)


def chunks_of(config, tokens, **options):
    return list(logits_in_chunks(config, params_of(config), tokens, **options))


@pytest.fixture(scope="module")
def expected():
    """Logits [150, 264] of one product; the first rows do not read later tokens."""
    params = params_of(OTHER)
    hidden = jax.jit(apply, static_argnums=0)(OTHER, params, TOKENS[None])[0]
    return np.asarray(hidden, np.float64) @ np.asarray(head(params), "f8")[:264].T


@pytest.mark.parametrize("length, chunk", [(1, 64), (150, 64), (150, 100)])
def test_equal_to_one_product(length, chunk, expected):
    parts = chunks_of(OTHER, TOKENS[:length], vocab_size=264, chunk=chunk)
    assert all(len(part) <= chunk for part in parts)
    actual = np.concatenate(parts)
    assert actual.shape == (length, 264) and actual.dtype == np.float32
    error = np.abs(actual - expected[:length]).max()
    assert error < 2e-6 * np.abs(expected).max()


def test_few_programs():
    programs = (chunked_logits._hidden, chunked_logits._chunk)
    sizes = []
    for length in (65, 90, 128):
        chunks_of(STUDENT, TOKENS[:length], chunk=48)
        sizes.append([program._cache_size() for program in programs])
    assert sizes[0] == sizes[1] == sizes[2]
    padded = chunks_of(STUDENT, TOKENS[:100], chunk=48, padded=True)
    assert [part.shape for part in padded] == [(48, STUDENT.vocab_size)] * 3
    trimmed = chunks_of(STUDENT, TOKENS[:100], chunk=48)
    np.testing.assert_array_equal(np.concatenate(padded)[:100], np.concatenate(trimmed))


def test_soft_cap_and_dtype():
    capped = dataclasses.replace(STUDENT, final_logit_softcap=2.0)
    params = params_of(STUDENT)
    plain = np.concatenate(chunks_of(STUDENT, TOKENS))
    [*parts] = logits_in_chunks(capped, params, TOKENS)
    np.testing.assert_allclose(
        np.concatenate(parts), 2 * np.tanh(plain.astype("f8") / 2), atol=2e-6
    )
    half = np.concatenate(chunks_of(STUDENT, TOKENS, dtype=jnp.bfloat16))
    assert half.dtype == np.float32
    assert 0 < np.abs(half - plain).max() < 0.1 * np.abs(plain).max()


@pytest.mark.parametrize(
    "tokens, options, message",
    [
        ([], {}, "at least one"),
        ([[1]], {}, "expected token ids"),
        ([0.5], {}, "float64"),
        ([1, 272], {}, "token 272 is outside of 0..271"),
        ([-1], {}, "token -1"),
        ([1], {"vocab_size": 273}, "vocab_size is 273; expected 1 to 272"),
        ([1], {"chunk": 0}, "chunk is 0"),
    ],
)
def test_refusals(tokens, options, message):
    with pytest.raises(ValueError, match=message):
        chunks_of(STUDENT, tokens, **options)
