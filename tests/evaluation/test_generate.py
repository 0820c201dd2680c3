"""Generation against a loop over full forward passes, and its promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from targetsft_jax.evaluation.generate import _nucleus, generate
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import apply, head, init_params

CONFIG = DecoderConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
)
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], list(range(20)), [5, 3] * 35]


@functools.cache
def params_of():
    params = init_params(CONFIG, jax.random.key(0))
    # Far from uniform, so that greedy choices are not decided by rounding.
    return jax.tree.map(lambda leaf: leaf * 8 if leaf.ndim > 2 else leaf, params)


def run(prompts=PROMPTS, **options):
    settings = dict(max_new_tokens=6, stop_ids=[], key=jax.random.key(7))
    return generate(CONFIG, params_of(), prompts, **{**settings, **options})


@jax.jit
def every_logit(tokens):
    return apply(CONFIG, params_of(), tokens[None])[0] @ head(params_of()).T


def next_logits(tokens):
    """Behind the last token, padded to one length so that one program serves all."""
    padded = jnp.asarray([*tokens, *[0] * (32 - len(tokens))], jnp.int32)
    return np.asarray(every_logit(padded)[len(tokens) - 1])


def test_greedy_equals_full_forward():
    for prompt, (completion,) in zip(PROMPTS[:4], run(PROMPTS[:4], temperature=0)):
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(next_logits(tokens).argmax()))
        assert completion.tokens == tokens[len(prompt) :]
        assert not completion.finished


def test_stop_token_ends_and_is_left_out():
    whole = run(temperature=0)
    stop = whole[1][0].tokens[3]
    for (before,), (after,) in zip(whole, run(temperature=0, stop_ids=[stop, 23])):
        ends = [i for i, token in enumerate(before.tokens) if token in (stop, 23)]
        assert after.finished == bool(ends)
        assert after.tokens == before.tokens[: ends[0] if ends else None]


def test_stop_at_once_and_single_token():
    everything = list(range(24))
    assert all(
        done.finished and done.tokens == [] for (done,) in run(stop_ids=everything)
    )
    assert all(len(one.tokens) == 1 for (one,) in run(max_new_tokens=1))


def test_samples_follow_the_softmax():
    """2,000 first tokens: total variation from the exact probabilities below 7 %."""
    prompt, temperature = (1, 2, 3), 0.7
    logits = next_logits(prompt)
    exact = np.exp(logits / temperature - (logits / temperature).max())
    exact /= exact.sum()
    (drawn,) = run([prompt], samples=2000, max_new_tokens=1, temperature=temperature)
    counts = np.bincount([one.tokens[0] for one in drawn], minlength=24) / 2000
    assert np.abs(counts - exact).sum() / 2 < 0.07
    order = np.argsort(-exact)
    inside = order[: 1 + np.searchsorted(np.cumsum(exact[order]), 0.5)]
    (drawn,) = run(
        [prompt], samples=500, max_new_tokens=1, temperature=temperature, top_p=0.5
    )
    assert {one.tokens[0] for one in drawn} == set(inside.tolist())


def test_nucleus_equals_sorting():
    logits = 3 * np.random.default_rng(0).normal(size=(50, 300)).astype(np.float32)
    for top_p in (0.1, 0.5, 0.9, 0.999):
        kept = np.isfinite(_nucleus(jnp.asarray(logits), jnp.float32(top_p)))
        for row, mask in zip(logits.astype(np.float64), kept):
            probabilities = np.sort(np.exp(row) / np.exp(row).sum())[::-1]
            want = 1 + np.searchsorted(np.cumsum(probabilities), top_p)
            assert mask.sum() == want
            assert row[mask].min() > np.delete(row, np.flatnonzero(mask)).max()


def test_same_key_same_samples_whatever_the_batch():
    options = dict(samples=3, stop_ids=[5])
    whole = run(**options)
    assert run(**options) == whole
    assert run(batch_size=2, **options) == whole
    assert run(key=jax.random.key(8), **options) != whole
    assert len({tuple(one.tokens) for one in whole[0]}) > 1


def test_padded_vocabulary_rows_are_never_sampled():
    (drawn,) = run([[1]], samples=64, temperature=5.0, vocab_size=4)
    assert {token for one in drawn for token in one.tokens} == {0, 1, 2, 3}


def test_on_a_mesh():
    mesh = jax.make_mesh((4, 2), ("rows", "cols"), axis_types=(AxisType.Auto,) * 2)

    def spread(leaf):
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), "cols")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    split = jax.tree.map(spread, params_of())
    want = run(temperature=0)
    for rows in (None, NamedSharding(mesh, PartitionSpec("rows"))):
        got = generate(
            CONFIG,
            split,
            PROMPTS,
            max_new_tokens=6,
            temperature=0,
            stop_ids=[],
            key=jax.random.key(7),
            row_sharding=rows,
        )
        assert got == want


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1, 24]]}, "prompt 0 has token 24.*0..23"),
        ({"samples": 0}, "samples is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"vocab_size": 25}, "vocab_size is 25"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)
