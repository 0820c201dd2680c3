"""Rows become records, or are refused with file, line, field, found and expected."""

import dataclasses
import gzip
import json
import random

import pytest

from targetsft_jax.data.config import DataConfig, FieldMap
from targetsft_jax.data.filters import conditions
from targetsft_jax.data.record import RowError, first_unmet, to_record
from targetsft_jax.data.records import load_records
from targetsft_jax.data.sources import parse_row, read_lines

QA = FieldMap(prompt="question", response="answer")
GOOD = {"question": "1+1=?", "answer": "2"}
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": "2"},
]


def loaded(config):
    records, report = load_records(config)
    return list(records), report


def test_prompt_and_response_become_turns():
    record = to_record(GOOD, QA, "f:1")
    assert record.messages == [
        {"role": "user", "content": "1+1=?"},
        {"role": "assistant", "content": "2"},
    ]
    assert record.answer is None and record.origin == "f:1"


def test_templates_join_lists_and_reach_into_objects():
    fields = FieldMap(
        prompt="{contexts}\n\nQ: {question} {{A}} {options.A}",
        response="{long}\n#### {final}",
        system="role",
        answer="final",
    )
    row = {
        "contexts": ["one", "two"],
        "question": r"\frac{1}{2}?",
        "options": {"A": 7},
        "long": "Since it is.",
        "final": "yes",
        "role": "You are a doctor.",
    }
    record = to_record(row, fields, "f:1")
    assert [turn["content"] for turn in record.messages] == [
        "You are a doctor.",
        "one\ntwo\n\nQ: \\frac{1}{2}? {A} 7",
        "Since it is.\n#### yes",
    ]
    assert record.answer == "yes"


def test_messages_are_taken_as_they_are_and_extra_keys_left_out():
    row = {"messages": [dict(turn, name="x") for turn in TURNS]}
    assert to_record(row, FieldMap(), "f:1").messages == TURNS


def test_evaluation_ends_before_the_answer_and_needs_a_gold_one():
    fields = FieldMap(answer="gold")
    record = to_record({"messages": TURNS, "gold": 2}, fields, "f:1", train=False)
    assert record.messages == TURNS[:2] and record.answer == "2"
    unanswered = to_record(
        {"question": "1+1=?", "gold": 2},
        FieldMap(prompt="question", response="answer", answer="gold"),
        "f:1",
        train=False,
    )
    assert unanswered.messages == TURNS[1:2]
    with pytest.raises(RowError, match="f:1: no gold answer: set fields.answer"):
        to_record({"messages": TURNS}, FieldMap(), "f:1", train=False)


def test_columns_are_read_by_name():
    row = GOOD | {
        "trajectory_weight": 2,
        "critical_mask": [True, 0],
        "old_logprob": -0.5,
        "other": 1,
    }
    assert to_record(row, QA, "f:1").columns == {
        "trajectory_weight": 2.0,
        "critical_mask": [1.0, 0.0],
        "old_logprob": -0.5,
    }


def turns(*pairs):
    return {"messages": [{"role": r, "content": c} for r, c in pairs]}


@pytest.mark.parametrize(
    "fields, row, says",
    [
        (QA, {"answer": "2"}, "field 'question' is missing; the row has answer"),
        (QA, GOOD | {"answer": None}, "'answer' is NoneType; expected text"),
        (QA, GOOD | {"answer": {"a": 1}}, "'answer' is dict; expected text"),
        (QA, GOOD | {"answer": " \n"}, "'answer' is empty"),
        (QA, GOOD | {"trajectory_weight": [1.0]}, "expected a number, 0 or more"),
        (QA, GOOD | {"trajectory_weight": -1}, "expected a number, 0 or more"),
        (QA, GOOD | {"critical_mask": 0.5}, "expected a number, 0 or 1"),
        (QA, GOOD | {"old_logprob": [-1.0, 0.5]}, "expected a number, at most 0"),
        (QA, GOOD | {"old_logprob": float("nan")}, "old_logprob is nan"),
        (FieldMap(), {"messages": "hi"}, "'messages' is str; expected a list"),
        (FieldMap(), {"messages": []}, "'messages' is an empty list"),
        (FieldMap(), {"messages": ["hi"]}, r"messages\[0\] is str; expected an object"),
        (FieldMap(), {"messages": [{"role": "user"}]}, r"\.content is missing"),
        (FieldMap(), turns(("user", "a"), ("assistant", "")), "content is empty"),
        (FieldMap(), turns(("user", "a")), "no assistant turn"),
        (FieldMap(), turns(("human", "a"), ("assistant", "b")), "role 'human'"),
        (FieldMap(), turns(("assistant", "b")), "first speaker is assistant"),
        (FieldMap(), turns(("user", "a"), ("system", "b")), "role system"),
        (FieldMap(prompt="{q}"), {"x": 1}, "field 'q' is missing"),
    ],
)
def test_a_bad_row_says_where_and_why(fields, row, says):
    with pytest.raises(RowError, match=says) as error:
        to_record(row, fields, "rows.jsonl:7")
    assert str(error.value).startswith("rows.jsonl:7: ")


@pytest.mark.parametrize(
    "line, says",
    [
        (b'{"a": ', "not JSON"),
        (b"[1, 2]", "a JSON list; expected an object"),
        (b'{"a": "\xff"}', "not UTF-8"),
    ],
)
def test_a_bad_line_says_where_and_why(line, says):
    with pytest.raises(RowError, match=f"rows.jsonl:7: {says}"):
        parse_row(line, "rows.jsonl:7")


def test_lines_stream_from_both_kinds_of_file(tmp_path):
    plain, packed = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl.gz")
    with open(plain, "wb") as file:
        file.write("\ufeff".encode() + b'{"a": 1}\n\n{"a": "\xc3\xa9"}')
    with gzip.open(packed, "wb") as file:
        file.write(b'{"a": 3}\n')
    rows = [(o, parse_row(line, o)) for o, line in read_lines([plain, packed])]
    assert rows == [
        (f"{plain}:1", {"a": 1}),
        (f"{plain}:3", {"a": "é"}),
        (f"{packed}:1", {"a": 3}),
    ]


def test_damaged_compression_ends_the_stream_with_an_error(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    rng = random.Random(0)
    rows = b"\n".join(b'{"a": %d}' % rng.getrandbits(64) for _ in range(5000))
    path.write_bytes(gzip.compress(rows)[:-1000])
    with pytest.raises(ValueError, match=r"a\.jsonl\.gz: the gzip stream is damaged"):
        list(read_lines(str(path)))
    with pytest.raises(ValueError, match="no such file"):
        list(read_lines(str(tmp_path / "none.jsonl")))


@pytest.fixture
def mixed(tmp_path):
    """Fifteen lines: 0, 1, 2 good, then twelve bad ones of the train split."""
    path = tmp_path / "mixed.jsonl"
    lines = [json.dumps(GOOD | {"split": s, "n": 5}) for s in ("train", "test")]
    lines.append(json.dumps(GOOD | {"split": "train", "n": 5}))
    lines += [json.dumps({"question": "?", "split": "train", "n": 5})] * 12
    path.write_text("\n".join(lines))
    return DataConfig(source="jsonl", path=str(path), fields=QA)


def test_skipping_counts_all_and_lists_the_first(mixed):
    config = dataclasses.replace(
        mixed, on_bad_row="skip", where={"split": "train", "n": "5"}
    )
    records, report = loaded(config)
    assert [record.origin[-2:] for record in records] == [":1", ":3"]
    assert (report.rows, report.filtered, report.bad) == (15, 1, 12)
    assert "filtered by where    1 (split 1)" in str(report)
    assert {record.source for record in records} == {"mixed.jsonl"}
    assert [record.id for record in records] == ["mixed.jsonl:1", "mixed.jsonl:3"]
    assert len(report.bad_rows) == 10
    assert report.bad_rows[0].startswith(f"{config.path}:4: field 'answer' is missing")
    assert "… and 2 more" in str(report)
    with pytest.raises(RowError, match=":4: field 'answer' is missing"):
        loaded(mixed)


def test_limit_stops_reading_and_says_so(mixed):
    records, report = loaded(dataclasses.replace(mixed, limit=2))
    assert len(records) == 2 and report.rows == 2
    assert "stopped by data.limit" in str(report)


def test_a_missing_filter_field_is_a_bad_row(mixed):
    with pytest.raises(RowError, match=":1: field 'spilt' is missing"):
        loaded(dataclasses.replace(mixed, where={"spilt": "train"}))


@pytest.mark.parametrize(
    "condition, kept",
    [
        ("b", "b"),
        (["a", "c"], "ac"),
        ({"not": "a"}, "bcd"),
        ({"not": ["a", "b"]}, "cd"),
        ({"matches": "^[bd]$"}, "b"),
        ({"max_chars": 0}, "d"),
        ({"min_chars": 1, "not": "c"}, "ab"),
    ],
)
def test_conditions_on_text(condition, kept):
    tests = conditions({"x": condition})
    rows = {"a": "a", "b": "b", "c": "c", "d": None}
    held = [k for k, v in rows.items() if first_unmet({"x": v}, tests, "f:1") is None]
    assert "".join(held) == kept  # the null d is empty text


def test_conditions_on_numbers():
    tests = conditions({"meta.year": {"min": 2000, "max": 2010.5}})
    years = [1999, 2000, "2010", 2010.5, 2011, None]
    kept = [
        y for y in years if first_unmet({"meta": {"year": y}}, tests, "f:1") is None
    ]
    assert kept == [2000, "2010", 2010.5]
    for name in ("min", "max"):
        assert first_unmet({"x": None}, conditions({"x": {name: 5}}), "f:1") == "x"
    with pytest.raises(RowError, match="f:1: field 'meta.year' is 'x'; expected a num"):
        first_unmet({"meta": {"year": "x"}}, tests, "f:1")


def test_a_field_must_satisfy_all_and_the_first_that_does_not_is_named():
    tests = conditions({"a": {"min": 1, "max": 3}, "b": True})
    assert first_unmet({"a": 2, "b": True}, tests, "f:1") is None
    assert first_unmet({"a": 4, "b": False}, tests, "f:1") == "a"
    assert first_unmet({"a": 3, "b": False}, tests, "f:1") == "b"
