"""Generation against repeated full forward passes, and reproducibility."""

import dataclasses
import functools
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from targetsft_jax.generation import generate as generate_module
from targetsft_jax.generation import rows as rows_module
from targetsft_jax.generation.generate import generate
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
    return decoder_params(CONFIG)


def decoder_params(config):
    # Far from uniform, so that greedy choices are not decided by rounding.
    shapes = abstract_params(config)
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


def test_on_a_mesh(monkeypatch):
    """Each replica with prompts of its own, which need not fill the mesh.

    Parameters sharded over one axis leave the other to replicas; unsharded ones, both.
    """
    threads = set()
    real = rows_module.prefill

    def prefill(*arguments):
        threads.add(threading.get_ident())
        return real(*arguments)

    monkeypatch.setattr(rows_module, "prefill", prefill)
    mesh = jax.make_mesh((4, 2), ("rows", "cols"), axis_types=(AxisType.Auto,) * 2)

    def shard(leaf, last):
        spec = PartitionSpec(*[None] * (leaf.ndim - 1), last)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    expected = [greedy()[PROMPTS.index(prompt)] for prompt in SHORT[:3]]
    for last, spec, replicas in (
        ("cols", None, 1),
        ("cols", ("rows",), 3),
        ("rows", ("rows",), 1),
        (None, (("rows", "cols"),), 3),
    ):
        threads.clear()
        rows = None if spec is None else NamedSharding(mesh, PartitionSpec(*spec))
        completions = generate(
            CONFIG,
            jax.tree.map(functools.partial(shard, last=last), params_of()),
            SHORT[:3],
            max_new_tokens=6,
            temperature=0,
            stop_ids=[],
            key=jax.random.key(7),
            row_sharding=rows,
        )
        assert completions == expected
        assert len(threads) == replicas


def test_an_error_in_a_replica_ends_all(monkeypatch):
    def fail(*_):
        raise RuntimeError("no memory")

    monkeypatch.setattr(rows_module, "advance", fail)
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
    rows = NamedSharding(mesh, PartitionSpec("rows"))
    with pytest.raises(RuntimeError, match="no memory"):
        generate(
            CONFIG,
            jax.device_put(params_of(), NamedSharding(mesh, PartitionSpec())),
            SHORT,
            max_new_tokens=6,
            stop_ids=[],
            key=jax.random.key(7),
            row_sharding=rows,
        )


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
    monkeypatch.setattr(rows_module, "prefill", lambda *_: 1 / 0)
    options = {"max_new_tokens": 1, "stop_ids": [], "key": jax.random.key(0)}
    with pytest.raises(ValueError, match="prompt 1 has 10 tokens; expected fewer than"):
        generate(limited, params_of(), [[1], [2] * 10], **options)


def test_a_cache_beyond_the_memory_is_refused_before_compiling(monkeypatch):
    """By arithmetic, for all lengths, with the number of the prompt."""
    monkeypatch.setattr(rows_module, "prefill", lambda *_: 1 / 0)
    monkeypatch.setattr(generate_module, "device_memory", lambda: 2**20)
    with pytest.raises(ValueError, match=r"prompt 2 is padded to 1,024 tokens.* GiB"):
        run([[1], [2], [3] * 1000])


@pytest.fixture
def programs(monkeypatch):
    """Names of the programs that a test runs, and the rows of each start."""
    calls = []

    def recorded(name):
        real = getattr(rows_module, name)

        def call(*arguments):
            rows = arguments[5]["prompt"] >= 0 if name == "start" else None
            calls.append((name, None if rows is None else int(rows.sum())))
            return real(*arguments)

        monkeypatch.setattr(rows_module, name, call)

    for name in ("prefill", "start", "advance", "with_slots"):
        recorded(name)
    return calls


def test_rows_are_as_many_as_the_memory_allows(monkeypatch, programs):
    """The completions are those of one batch."""
    expected = run(SHORT, temperature=0)
    assert [rows for name, rows in programs if name == "start"] == [4]
    programs.clear()
    scores, row = 8 * 4 * 64 * 64 * 16, 2 * 2 * 2 * 4 * 4 * (64 + 5)
    monkeypatch.setattr(generate_module, "device_memory", lambda: scores + 2 * row)
    assert run(SHORT, temperature=0) == expected
    assert [rows for name, rows in programs if name == "start"] == [2, 2]


def test_ended_rows_take_the_next_completion(programs):
    """Equal to one by one, in fewer steps than batches that wait for their longest."""
    prompts = [[n % 24, (5 * n) % 24, 3] for n in range(12)]
    settings = dict(samples=2, max_new_tokens=70, stop_ids=[4, 8])
    together = run(prompts, batch_size=3, **settings)
    starts = [rows for name, rows in programs if name == "start"]
    assert sum(starts) == 24 and len(starts) > 6 and starts[0] == 6
    assert [name for name, _ in programs].count("prefill") == 1
    alone = [
        run([prompt], numbers=[number], **settings)[0]
        for number, prompt in enumerate(prompts)
    ]
    assert together == alone
    lengths = [len(one.tokens) for row in together for one in row]
    assert min(lengths) < 5 and max(lengths) > 20
    assert {one.finished for row in together for one in row} >= {True}


def test_more_slots_when_a_completion_needs_them(monkeypatch, programs):
    """Rows of several lengths, one of them over the end of the ring."""
    expected = run(PROMPTS, max_new_tokens=40, samples=2)
    assert "with_slots" not in [name for name, _ in programs]
    monkeypatch.setattr(rows_module, "FIRST_SLOTS", -40)
    again = run(PROMPTS, max_new_tokens=40, samples=2, batch_size=2)
    assert again == expected
    assert [name for name, _ in programs].count("with_slots") >= 3


def test_windows_with_a_ring_equal_a_full_cache():
    """A Gemma-like model with prompts below and above its window of 5 tokens."""
    config = dataclasses.replace(
        CONFIG,
        num_layers=3,
        sliding_window=5,
        sliding_layers=(True, False, True),
        local_rope_theta=50.0,
    )
    params = decoder_params(config)
    prompts = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10], [11] * 9]
    arguments = dict(max_new_tokens=12, temperature=0, key=jax.random.key(0))
    rings = generate(config, params, prompts, stop_ids=[], **arguments, batch_size=2)
    rows = np.zeros((3, 24), np.int32)
    for row, (prompt, (one,)) in enumerate(zip(prompts, rings)):
        tokens = [*prompt, *one.tokens]
        rows[row, : len(tokens)] = tokens
    logits = np.asarray(apply(config, params, rows) @ head(params).T)
    for prompt, (one,), row in zip(prompts, rings, logits):
        best = row.argmax(-1)[len(prompt) - 1 :][:12]
        assert one.tokens == best.tolist()
