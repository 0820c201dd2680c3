"""Rows of a teacher with its own prompt: capacity, cuts and labels by brute force."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targetsft_jax.data import packing
from targetsft_jax.data.chat import Example
from targetsft_jax.data.config import DataConfig, SourceConfig
from targetsft_jax.data.examples import flat_parts, from_flat, join_parts
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import batch_at, iterate, prepare
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.teacher_rows import (
    TeacherPrompt,
    TeacherRows,
    fit_to_teacher_rows,
)
from targetsft_jax.data.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPT = TeacherPrompt("{question} Hint: {hint}", 96)
FIELDS = FieldMap(prompt="question", response="answer")

# Tokens before the response of the student and of the teacher, and its loss mask.
PAIRS = st.lists(
    st.tuples(
        st.integers(1, 6),
        st.integers(1, 12),
        st.lists(st.booleans(), min_size=1, max_size=9).filter(any),
    ),
    min_size=1,
    max_size=30,
)


def _examples(pairs, side):
    """Examples of one side; equal tokens are trained on both."""
    examples = []
    for number, pair in enumerate(pairs):
        before, mask = pair[side], pair[2]
        response = 100 * (number + 1) + np.arange(len(mask))
        tokens = np.concatenate([np.full(before, side + 1), response])
        mask = np.concatenate([np.zeros(before, bool), mask])
        examples.append(Example(tokens.astype(np.int32), mask, {}, f"f:{number}"))
    return from_flat(join_parts(flat_parts(examples)))


def _trained(example, end=None):
    """Trained tokens of an example, or of its first tokens."""
    return example.tokens[1:end][example.loss_mask[1:end]].tolist()


def _first_fit(sizes, capacities):
    """Rows of indices: the largest first, each into the first row with room."""
    relative = [
        max(-(-n * capacities[0] // c) for n, c in zip(s, capacities)) for s in sizes
    ]
    rows = []
    for i in sorted(range(len(sizes)), key=lambda i: -relative[i]):
        for row in rows:
            used = np.sum([sizes[j] for j in row], axis=0)
            if all(used + sizes[i] <= capacities):
                row.append(i)
                break
        else:
            rows.append([i])
    return rows


@settings(max_examples=40, deadline=None)
@given(PAIRS, st.sampled_from(["truncate", "drop"]))
def test_rows_hold_both_sides_and_labels_are_found(pairs, overlong):
    """Against the definition: cut behind the last trained token that both rows hold."""
    student, teacher = _examples(pairs, 0), _examples(pairs, 1)
    report, counterparts = DataReport(), np.arange(len(pairs))
    fitted = packing.fit_to_rows(student, 12, overlong, report)
    numbers, lengths, theirs = fit_to_teacher_rows(
        (student, teacher), counterparts, fitted, 14, overlong, report
    )
    expected = {}
    for number in range(len(pairs)):
        whole = _trained(student.take(number))
        if overlong == "drop" and student.lengths[number] > 12:
            continue
        # The longest start of the response that both rows hold.
        held = min(
            (_trained(student.take(number), 12), _trained(teacher.take(number), 14)),
            key=len,
        )
        if held and (held == whole or overlong == "truncate"):
            expected[number] = held
    kept = dict(zip(numbers.tolist(), zip(lengths.tolist(), theirs.tolist())))
    assert kept.keys() == expected.keys()
    for number, (ours, other) in kept.items():
        assert _trained(student.take(number, ours)) == expected[number]
        example = teacher.take(number, other)
        assert _trained(example) == expected[number] and example.loss_mask[-1]
    left = len(pairs) - len(kept)
    assert sum(report.dropped.values()) == left
    if not len(numbers):
        return
    layout = packing.pack(numbers, lengths, 12, teacher=(theirs, 14))
    order = [
        numbers[row].tolist() for row in _first_fit([*zip(lengths, theirs)], (12, 14))
    ]
    parts = [layout.segments(row) for row in range(layout.rows)]
    assert [layout.examples[part].tolist() for part in parts] == order
    rows = np.arange(layout.rows)
    ours = packing.build_rows(student, layout, rows)
    arrays = TeacherRows.of(teacher, counterparts, layout).take(ours["loss_mask"], rows)
    # The state before a token predicts it.
    after = np.take_along_axis(
        np.pad(arrays["teacher_tokens"], [(0, 0), (0, 1)]),
        arrays["teacher_index"] + 1,
        axis=1,
    )
    mask = ours["loss_mask"]
    np.testing.assert_array_equal(after[mask], ours["labels"][mask])
    segments = np.take_along_axis(
        arrays["teacher_segment_ids"], arrays["teacher_index"], axis=1
    )
    np.testing.assert_array_equal(segments[mask], ours["segment_ids"][mask])
    assert not arrays["teacher_index"][~mask].any()


def test_an_example_beyond_the_teachers_rows_is_an_error_by_name():
    pairs = [(1, 2, [True] * 3), (2, 12, [True] * 4)]
    sides = _examples(pairs, 0), _examples(pairs, 1)
    fitted = np.arange(2), sides[0].lengths
    with pytest.raises(ValueError, match="f:1: 16 tokens .* teacher.max_length is 14"):
        fit_to_teacher_rows(sides, np.arange(2), fitted, 14, "error", DataReport())


@pytest.fixture
def rows(tmp_path):
    """Twelve rows; the third has no hint."""
    lines = [
        {"question": f"{n}+1?", "answer": str(n + 1), "hint": "x" * n, "id": n}
        for n in range(12)
    ]
    del lines[2]["hint"]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def _section(path, **more):
    return DataConfig(
        **({"source": "files", "path": str(path), "fields": FIELDS} | more),
        max_length=48,
    )


def test_a_row_without_a_field_of_the_prompt_is_refused_or_skipped(rows):
    with pytest.raises(RowError, match="rows.jsonl:3: .*hint"):
        prepare(_section(rows), TOKENIZER, teacher=PROMPT)
    report = prepare(_section(rows, on_bad_row="skip"), TOKENIZER, teacher=PROMPT)
    assert (report.train.report.bad, report.train.report.examples) == (1, 11)
    assert "rows.jsonl:3: " in report.train.report.bad_rows[0]
    part = SourceConfig(source="files", path=str(rows), fields=FIELDS, name="a")
    other = dataclasses.replace(SourceConfig(), name="b")
    mixed = DataConfig(mixture=[other, part], max_length=48)
    with pytest.raises(RowError, match="addition:train:0:0: .*question"):
        prepare(mixed, TOKENIZER, teacher=PROMPT)


def test_a_changed_response_is_refused_by_row(rows):
    config = _section(rows, where={"id": {"min": 3}})
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
        "{% generation %}{% if 'Hint' in messages[0].content %}As hinted: {% endif %}"
        "{{ m.content }}<|end|>{% endgeneration %}{% endif %}{% endfor %}"
    )
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(
        RowError, match="rows.jsonl:4: .*under teacher.prompt .* differ"
    ):
        prepare(config, tokenizer, teacher=PROMPT)


def test_a_table_reads_the_columns_of_the_prompt_and_the_cache_tells_them_apart(
    rows, tmp_path
):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = [json.loads(line) for line in rows.read_text().splitlines()]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([row for row in table if "hint" in row]), path)
    config, cache = _section(path), tmp_path / "cache"
    plain = prepare(config, TOKENIZER, cache)
    first = prepare(config, TOKENIZER, cache, teacher=PROMPT, held_out=3)
    again = prepare(config, TOKENIZER, cache, teacher=PROMPT, held_out=3)
    assert all("from the cache" in line for line in again.train.cache_log)
    other = dataclasses.replace(PROMPT, template="{hint} {question}")
    changed = prepare(config, TOKENIZER, cache, teacher=other, held_out=3)
    prints = {x.train.fingerprint for x in (plain, first, changed)}
    assert len(prints) == 3 and again.train.fingerprint == first.train.fingerprint
    assert "Hint: x" in TOKENIZER.decode(first.train.teacher_example.tokens)
    assert first.held_out.report.teacher_row_length == 96
    batches = [
        batch_at(x.train, 3, batch_size=4, accumulation_steps=2) for x in (first, again)
    ]
    assert batches[0].keys() - batch_at(plain.train, 0, batch_size=2).keys() == {
        "teacher_tokens",
        "teacher_segment_ids",
        "teacher_positions",
        "teacher_index",
    }
    batches.append(
        next(iterate(first.train, 3, batch_size=4, accumulation_steps=2, prefetch=1))
    )
    for other in batches[1:]:
        for name, array in batches[0].items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_weighted_sources_and_rows_of_one_example(rows):
    usable = {"id": {"min": 3}}
    parts = [
        SourceConfig(
            source="files",
            path=str(rows),
            fields=FIELDS,
            where=usable,
            name=name,
            weight=weight,
        )
        for name, weight in (("a", 1.0), ("b", 3.0))
    ]
    mixed = DataConfig(mixture=parts, max_length=48)
    for config, number in ((mixed, 18), (_section(rows, where=usable), 9)):
        config = dataclasses.replace(config, packing=False)
        train = prepare(config, TOKENIZER, teacher=PROMPT).train
        assert train.rows == number == train.teacher_rows.layout.rows
        batch = train.take(np.arange(number))
        assert batch["teacher_segment_ids"].max() == 1
    assert f"teacher's rows       96 tokens, {train.report.teacher_fill:.1%} full" in (
        train.report.lines()
    )


def test_too_many_cuts_by_the_teachers_rows_name_their_key(rows):
    config = _section(rows, where={"id": {"min": 3}})
    short = dataclasses.replace(PROMPT, max_length=20)
    with pytest.raises(ValueError, match="Raise teacher.max_length from 20"):
        prepare(config, TOKENIZER, teacher=short)
