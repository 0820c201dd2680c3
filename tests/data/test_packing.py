"""Packed rows: every token once, and no label across the end of a segment."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targetsft_jax.data import packing
from targetsft_jax.data.chat import Example
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.examples import flat_parts, from_flat, join_parts
from targetsft_jax.data.packing import build_rows, fit_to_rows
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.report import DataReport


def example(start, mask, **columns):
    """Tokens start, start + 1, …: a token identifies its example."""
    n = len(mask)
    return Example(
        np.arange(start, start + n, dtype=np.int32),
        np.array(mask, bool),
        {k: np.array(v, np.float32) for k, v in columns.items()},
        origin=f"f:{start}",
    )


def join(examples):
    return from_flat(join_parts(flat_parts(examples)))


def pack(examples, row_length, **options):
    """All rows of some examples, in their order."""
    joined = join(examples)
    numbers = np.arange(len(examples))
    layout = packing.pack(numbers, joined.lengths, row_length, **options)
    return build_rows(joined, layout, np.arange(layout.rows))


def test_two_examples_in_a_row_worked_by_hand():
    arrays = pack(
        [
            example(10, [0, 0, 1, 1], critical_mask=[0, 0, 0.5, 1]),
            example(20, [0, 1, 1], critical_mask=[0, 1, 0]),
        ],
        9,
    )
    expected = {
        "tokens": [10, 11, 12, 13, 20, 21, 22, 0, 0],
        "labels": [11, 12, 13, 0, 21, 22, 0, 0, 0],
        "loss_mask": [0, 1, 1, 0, 1, 1, 0, 0, 0],
        "segment_ids": [1, 1, 1, 1, 2, 2, 2, 0, 0],
        "positions": [0, 1, 2, 3, 0, 1, 2, 0, 0],
        "critical_mask": [0, 0.5, 1, 0, 1, 0, 0, 0, 0],
    }
    assert arrays.keys() == expected.keys()
    for name, row in expected.items():
        np.testing.assert_array_equal(arrays[name], [row], err_msg=name)
    assert {name: str(values.dtype) for name, values in arrays.items()} == {
        "tokens": "int32",
        "labels": "int32",
        "loss_mask": "bool",
        "segment_ids": "int32",
        "positions": "int32",
        "critical_mask": "float32",
    }


def test_without_packing_every_row_has_one_example():
    arrays = pack([example(10, [0, 1]), example(20, [0, 1, 1])], 4, packing=False)
    np.testing.assert_array_equal(arrays["tokens"], [[10, 11, 0, 0], [20, 21, 22, 0]])
    np.testing.assert_array_equal(arrays["segment_ids"], [[1, 1, 0, 0], [1, 1, 1, 0]])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=40),
    st.booleans(),
)
def test_every_token_arrives_once_with_its_label(masks, packing):
    """Read back by segment, the rows are the examples."""
    examples = [
        example(
            1000 * (i + 1), mask, old_logprob=-np.arange(len(mask)) * np.array(mask)
        )
        for i, mask in enumerate(masks)
    ]
    arrays = pack(examples, 12, packing=packing)
    by_token = {}
    for row in range(len(arrays["tokens"])):
        segments = arrays["segment_ids"][row]
        used = segments[segments > 0]
        # Segments are 1, 2, … without a gap, and padding is at the end only.
        assert (np.diff(used) >= 0).all() and set(used) == set(range(1, used.max() + 1))
        assert (segments[len(used) :] == 0).all()
        for segment in range(1, used.max() + 1):
            at = {k: v[row][segments == segment] for k, v in arrays.items()}
            by_token[int(at["tokens"][0])] = at
        for name in arrays:
            assert not arrays[name][row][segments == 0].any(), name
    assert len(by_token) == len(examples)
    for item in examples:
        at, n = by_token[int(item.tokens[0])], len(item.tokens)
        np.testing.assert_array_equal(at["tokens"], item.tokens)
        np.testing.assert_array_equal(at["positions"], np.arange(n))
        np.testing.assert_array_equal(at["labels"], [*item.tokens[1:], 0])
        np.testing.assert_array_equal(at["loss_mask"], [*item.loss_mask[1:], False])
        column = [*item.columns["old_logprob"][1:], 0]
        np.testing.assert_array_equal(at["old_logprob"], column)


@pytest.mark.parametrize("open_rows", [1024, 32])
def test_rows_are_full(open_rows, monkeypatch):
    """At most 1 % more rows than the tokens need, and one per window."""
    monkeypatch.setattr(packing, "_OPEN_ROWS", open_rows)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(100), 0.5, 3000).astype(int), 2, 1024)
    arrays = pack([example(1, [0] + [1] * (n - 1)) for n in lengths], 1024)
    assert (arrays["segment_ids"] > 0).sum() == lengths.sum()
    needed = lengths.sum() / 1024
    assert len(arrays["tokens"]) <= 1.01 * needed + needed / (0.9 * open_rows) + 1


@pytest.mark.slow
def test_rows_of_published_sets_are_full(shared):
    """At 2,048 tokens per row, with a tokenizer trained on the same text."""
    path = Path(__file__).parents[2] / "perf" / "data_cpu.py"
    spec = importlib.util.spec_from_file_location("data_cpu", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    files = {
        name: shared / "data" / name / "train.jsonl.gz" for name in ("gsm8k", "math")
    }
    both = benchmark.sources(**files)
    some = itertools.islice(benchmark.texts(both), 0, None, 3)
    tokenizer = benchmark.bpe_tokenizer(some)
    for source, rows in zip(both.mixture, (7473, 7500)):
        config = DataConfig(**vars(source), max_length=2048, shuffle_seed=1)
        report = prepare(config, tokenizer).train.report
        assert report.examples == report.rows == rows
        assert report.fill >= 0.98, report


def test_a_column_of_some_examples_only_is_refused():
    with pytest.raises(ValueError, match="f:20 has no old_logprob and f:10 has one"):
        pack([example(10, [0, 1], old_logprob=[0, -1]), example(20, [0, 1])], 4)
    with pytest.raises(ValueError, match="no examples"):
        pack([], 4)


def test_truncation_is_counted_and_keeps_the_beginning():
    report = DataReport()
    examples = [
        example(10, [0, 1, 1], old_logprob=[0, -1, -1]),
        example(20, [0, 1, 1, 1, 1], old_logprob=[0, -1, -2, -3, -4]),
        example(30, [0, 0, 0, 0, 1], old_logprob=[0, 0, 0, 0, -1]),
        example(40, [1, 0], old_logprob=[-1, 0]),
    ]
    numbers, lengths = fit_to_rows(join(examples), 4, "truncate", report)
    assert (numbers.tolist(), lengths.tolist()) == ([0, 1], [3, 4])
    rows = build_rows(
        join(examples[1:2]), packing.pack(numbers[:1], lengths[1:], 4), np.array([0])
    )
    np.testing.assert_array_equal(rows["tokens"], [[20, 21, 22, 23]])
    np.testing.assert_array_equal(rows["labels"], [[21, 22, 23, 0]])
    np.testing.assert_array_equal(rows["loss_mask"], [[1, 1, 1, 0]])
    np.testing.assert_array_equal(rows["old_logprob"], [[-1, -2, -3, 0]])
    assert report.truncated == 1
    assert report.dropped == {
        "no trained token left after truncation": 1,
        "no trained token after the first one": 1,
    }


def test_overlong_examples_are_dropped_or_refused():
    report = DataReport()
    examples = [example(10, [0, 1, 1]), example(20, [0, 1, 1, 1, 1])]
    numbers, lengths = fit_to_rows(join(examples), 4, "drop", report)
    assert (numbers.tolist(), lengths.tolist()) == ([0], [3])
    assert report.dropped == {"longer than a row": 1} and report.truncated == 0
    with pytest.raises(ValueError, match="f:20: 5 tokens and data.max_length is 4"):
        fit_to_rows(join(examples), 4, "error", DataReport())
