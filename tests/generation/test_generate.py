"""Generation against repeated full forward passes, and reproducibility."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from targetsft_jax.generation import generate as generate_module
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.loop import LoopPlan
from targetsft_jax.generation.sampling import SamplingPlan
from targetsft_jax.models import padding
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.decoder import abstract_params, apply, head

CONFIG = DecoderConfig(
    vocab_size=24,
    hidden_size=16,
    intermediate_size=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
)
SHORT = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11], list(range(20))]
PROMPTS = [*SHORT[:2], [5, 3] * 35, *SHORT[2:]]  # the long one is padded further
LONGEST = 80


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Compile with fewer optimizations, in half the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@functools.cache
def params_of():
    # Far from uniform, so that greedy choices are not decided by rounding.
    shapes = abstract_params(CONFIG)
    rng = np.random.default_rng(0)

    def leaf_of(path, leaf):
        name = path[-1].key
        noise = 0.16 * rng.normal(size=leaf.shape)
        return jnp.asarray(1 + noise if "norm" in name else noise, jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf_of, shapes)


def run(prompts=SHORT, **options):
    settings = dict(max_new_tokens=6, stop_ids=[], key=jax.random.key(7))
    return generate(CONFIG, params_of(), prompts, **{**settings, **options})


@functools.cache
def greedy():
    # As many stop ids as in their test, for one program; none of them is sampled.
    return run(PROMPTS, temperature=0, stop_ids=range(24, 28))


@jax.jit
def every_logit(tokens):
    return apply(CONFIG, params_of(), tokens) @ head(params_of()).T


def full_forward(rows):
    """Logits [rows, LONGEST, V]; undefined after the end of a row."""
    padded = np.zeros((len(PROMPTS), LONGEST), np.int32)  # one program for all calls
    for at, row in enumerate(rows):
        padded[at, : len(row)] = row
    return np.asarray(every_logit(padded))[: len(rows)]


def test_greedy_equals_full_forward():
    """Each token is the most probable one after the prompt and earlier tokens."""
    rows = [[*prompt, *one.tokens] for prompt, (one,) in zip(PROMPTS, greedy())]
    chosen = set()
    for prompt, (one,), logits in zip(PROMPTS, greedy(), full_forward(rows)):
        best = logits.argmax(-1)[len(prompt) - 1 :]
        assert len(one.tokens) == 6 and not one.finished
        assert one.tokens == best[:6].tolist()
        chosen |= set(one.tokens)
    assert len(chosen) > 4  # not one repeated token


def test_a_stop_token_ends_a_completion_and_is_not_in_it():
    unstopped = [greedy()[PROMPTS.index(prompt)] for prompt in SHORT]
    first = {one.tokens[0] for (one,) in unstopped}
    stop = unstopped[1][0].tokens[3]
    for stops in ({stop, 23}, first):
        padded = [*stops, *range(24, 28)][:4]
        stopped = run(temperature=0, stop_ids=padded)
        for (before,), (after,) in zip(unstopped, stopped):
            ends = [i for i, token in enumerate(before.tokens) if token in stops]
            assert after.finished == bool(ends)
            assert after.tokens == before.tokens[: ends[0] if ends else None]
            assert stops != first or after.tokens == []


def test_samples_follow_the_softmax():
    """2,000 first tokens: total variation from the exact probabilities below 7 %.

    First with a vocabulary of 12, as for an embedding with padded rows.
    """
    prompt, temperature = [1, 2, 3], 0.7
    logits = full_forward([prompt])[0, len(prompt) - 1] / temperature
    exact = np.exp(logits - logits.max())
    exact /= exact.sum()
    assert exact[12:].sum() > 0.2  # mass that must not be sampled
    allowed = exact[:12] / exact[:12].sum()
    options = dict(samples=2000, max_new_tokens=1, temperature=temperature)
    (samples,) = run([prompt], **options, vocab_size=12)
    assert all(len(one.tokens) == 1 and not one.finished for one in samples)
    counts = np.bincount([one.tokens[0] for one in samples], minlength=12) / 2000
    assert len(counts) == 12
    assert np.abs(counts - allowed).sum() / 2 < 0.07
    order = np.argsort(-exact)
    inside = order[: 1 + np.searchsorted(np.cumsum(exact[order]), 0.5)]
    (samples,) = run([prompt], **options, top_p=0.5)
    assert {one.tokens[0] for one in samples} == set(inside.tolist())
    (samples,) = run([prompt], **options, top_k=4)
    assert {one.tokens[0] for one in samples} == set(order[:4].tolist())
    # The nucleus is within the top-k tokens.
    top = exact[order[:4]] / exact[order[:4]].sum()
    both = order[: 1 + np.searchsorted(np.cumsum(top), 0.5)]
    assert len(both) < len(inside)
    (samples,) = run([prompt], **options, top_k=4, top_p=0.5)
    assert {one.tokens[0] for one in samples} == set(both.tolist())


def test_equal_keys_give_equal_samples_for_any_batch_size():
    options = dict(samples=3, stop_ids=[5])
    completions = run(**options)
    assert run(**options) == completions
    assert run(batch_size=3, **options) == completions  # the second batch is padded
    assert run(key=jax.random.key(8), **options) != completions
    assert len({tuple(one.tokens) for one in completions[0]}) > 1
    # A repeated prompt has other samples.
    again = run([*SHORT[:3], SHORT[0]], **options)
    assert again[:3] == completions[:3] and again[3] != again[0]


def test_on_a_mesh():
    """Also if the prompts do not fill the mesh: three prompts on four devices."""
    mesh = jax.make_mesh((4, 2), ("rows", "cols"), axis_types=(AxisType.Auto,) * 2)

    def shard(leaf):
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), "cols")
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    sharded = jax.tree.map(shard, params_of())
    expected = [greedy()[PROMPTS.index(prompt)] for prompt in SHORT[:3]]
    for rows in (None, NamedSharding(mesh, PartitionSpec("rows"))):
        completions = generate(
            CONFIG,
            sharded,
            SHORT[:3],
            max_new_tokens=6,
            temperature=0,
            stop_ids=[],
            key=jax.random.key(7),
            row_sharding=rows,
        )
        assert completions == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts": [[1], []]}, "prompt 1 is empty"),
        ({"prompts": [[1, 24]]}, "prompt 0 has token 24.*0..23"),
        ({"samples": 0}, "samples is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"vocab_size": 25}, "vocab_size is 25"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(**options)


def test_a_prompt_without_a_free_position_is_refused(monkeypatch):
    limited = dataclasses.replace(CONFIG, max_position_embeddings=10)
    monkeypatch.setattr(generate_module, "decode", lambda *_: 1 / 0)
    options = {"max_new_tokens": 1, "stop_ids": [], "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="prompt 1 has 10 tokens; expected fewer than"):
        generate(limited, params_of(), [[1], [2] * 10], **options)


def test_a_cache_beyond_the_memory_is_refused_before_compiling(monkeypatch):
    """By arithmetic, for all lengths, with the number of the prompt."""
    monkeypatch.setattr(generate_module, "decode", lambda *_: 1 / 0)
    monkeypatch.setattr(generate_module, "device_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"prompt 2 is padded to 1,024 tokens.* GiB"):
        run([[1], [2], [3] * 1000])


def test_batches_are_as_large_as_the_memory_allows(monkeypatch):
    """The completions are those of one batch."""
    sizes = []
    real = generate_module.decode

    def decode(config, plan, params, batch, settings):
        sizes.append(len(batch["tokens"]))
        return real(config, plan, params, batch, settings)

    expected = run(SHORT, temperature=0)
    monkeypatch.setattr(generate_module, "decode", decode)
    plan = LoopPlan(1, 6, SamplingPlan(True, False, 0), 24, np.dtype("float32"), None)
    one = generate_module.batch_bytes(CONFIG, plan, 1, padding.SHORTEST)
    monkeypatch.setattr(generate_module, "device_memory", lambda: 2 * one)
    assert run(SHORT, temperature=0) == expected
    assert sizes == [2, 2]
    sizes.clear()
    monkeypatch.setattr(generate_module, "device_memory", lambda: None)
    run(SHORT, temperature=0)
    assert sizes == [4]
