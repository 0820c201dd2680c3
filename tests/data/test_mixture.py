"""Mixtures: shares to within a row, complete passes, and resumption."""

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targetsft_jax.data.config import DataConfig, SourceConfig, SyntheticConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.mixture import row_order, whole_shares
from targetsft_jax.data.pipeline import batch_at, iterate, prepare, rows_at
from targetsft_jax.data.tokenizer import byte_tokenizer

SOURCES = st.lists(
    st.tuples(st.integers(8, 40), st.sampled_from([0.05, 0.3, 0.7, 1, 2.5, 9])),
    min_size=1,
    max_size=5,
)


def mixed(weights=(0.7, 0.3), max_length=64):
    """Two sources of 20 and 50 packed rows, one example each."""
    return DataConfig(
        mixture=[
            SourceConfig(
                name=name, synthetic=SyntheticConfig(examples=n, seed=n), weight=w
            )
            for name, n, w in zip(("few", "many"), (20, 50), weights)
        ],
        max_length=max_length,
    )


@settings(max_examples=12, deadline=None)
@given(SOURCES, st.integers(0, 2**32 - 1))
def test_shares_hold_to_within_a_row_and_passes_are_complete(sources, seed):
    sizes, weights = zip(*sources)
    total = sum(map(Fraction, map(str, weights)))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    stream = row_order(sizes, weights, seed)
    rows_of = [[] for _ in sizes]
    for n in range(1, 121):
        row = stream[n - 1]
        (of,) = (
            i for i in range(len(sizes)) if starts[i] <= row < starts[i] + sizes[i]
        )
        rows_of[of].append(row)
        for rows, weight in zip(rows_of, weights):
            assert abs(len(rows) - n * Fraction(str(weight)) / total) < 1
    for rows, size in zip(rows_of, sizes):
        for start in range(0, len(rows), size):
            one_pass = rows[start : start + size]
            assert len(set(one_pass)) == len(one_pass)


def test_passes_differ_in_order_and_so_do_equal_sources():
    rows = [row_order([40, 40], [1, 1], 3)[i] for i in range(160)]
    first, second = ([r for r in rows if r // 40 == i] for i in (0, 1))
    assert first[:40] != first[40:]
    assert first[:40] != [r - 40 for r in second[:40]]


def test_weights_become_the_whole_numbers_they_are_written_as():
    assert whole_shares([0.7, 0.3]) == [7, 3]
    assert whole_shares([2, 1.5, 0.5]) == [4, 3, 1]
    tiny, rest = whole_shares([1e-9, 1])
    assert tiny == 1 and rest == 100_000


def test_batches_have_the_shares_and_the_report_lists_them():
    dataset = prepare(mixed(), byte_tokenizer()).train
    assert dataset.rows == 70
    for step in range(20):
        rows = rows_at(dataset, step, batch_size=10, accumulation_steps=2)
        assert (rows < 20).sum() == 7
    assert dataset.report.by_source["few"]["packed_rows"] == 20
    lines = {line.split()[0]: line.split() for line in dataset.report.lines()}
    # An epoch of 70 rows has 49 of the source of 20 rows, 21 of the source of 50.
    assert lines["few"][-2:] == ["70.0%", "2.45"]
    assert lines["many"][-2:] == ["30.0%", "0.42"]
    assert lines["few"][1] == "20" and lines["many"][1] == "50"


def test_a_later_start_gives_the_tail_of_a_mixture():
    dataset = prepare(mixed(), byte_tokenizer()).train
    options = dict(batch_size=6, accumulation_steps=2, seed=5)
    full = [batch_at(dataset, step, **options) for step in range(30)]
    for start in (1, 13, 29):
        tail = [
            b for _, b in zip(range(30 - start), iterate(dataset, start, **options))
        ]
        for a, b in zip(full[start:], tail, strict=True):
            assert all((a[name] == b[name]).all() for name in a)


def test_without_weights_sources_are_packed_together_once_per_epoch():
    dataset = prepare(mixed((None, None), max_length=256), byte_tokenizer()).train
    rows = [sorted(dataset.origins(i)) for i in range(dataset.rows)]
    assert sum(map(len, rows)) == 70
    kinds = [{origin.split(":")[2] for origin in row} for row in rows]
    assert {"20", "50"} in kinds  # both seeds in one row
    epoch = rows_at(dataset, 0, batch_size=dataset.rows)
    assert sorted(epoch.ravel()) == list(range(dataset.rows))
    assert dataset.report.by_source["few"]["examples"] == 20


def test_no_row_has_two_sources_if_they_are_weighted():
    dataset = prepare(mixed(max_length=256), byte_tokenizer()).train
    for i in range(dataset.rows):
        assert len({origin.split(":")[2] for origin in dataset.origins(i)}) == 1


def test_a_weighted_source_without_examples_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"q": "b" * 100, "a": "c"}))
    file = SourceConfig(
        source="jsonl",
        path=str(path),
        fields=FieldMap(prompt="q", response="a"),
        weight=1,
    )
    config = DataConfig(mixture=[SourceConfig(weight=1), file], max_length=64)
    with pytest.raises(ValueError, match=r"data.mixture\[1\] \(a.jsonl\) has no examp"):
        prepare(config, byte_tokenizer())
