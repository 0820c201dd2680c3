"""Rows become records, or are refused with file, line, field, value and expectation."""

import dataclasses
from decimal import Decimal

import pytest

from targetsft_jax.data import record as record_module
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.record import to_record
from targetsft_jax.data.row_error import ROW_FAULTS, RowError, Unreadable
from targetsft_jax.keys import between
from targetsft_jax.targets import inputs

QA = FieldMap(prompt="question", response="answer")


GOOD = {"question": "1+1=?", "answer": "2"}


TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": "2"},
]


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


def test_a_column_is_read_from_the_field_that_is_named_for_it():
    fields = dataclasses.replace(QA, columns={"critical_mask": "hints"})
    row = GOOD | {"hints": [1, 0], "critical_mask": [0, 1]}
    record = to_record(row, fields, "f:1")
    assert record.columns == {"critical_mask": [1.0, 0.0]}
    with pytest.raises(RowError, match="f:1: no field 'hints', which fields.columns"):
        to_record(GOOD, fields, "f:1")
    evaluated = dataclasses.replace(fields, answer="answer")
    assert to_record(GOOD, evaluated, "f:1", train=False).columns == {}


def test_a_new_input_of_methods_is_read_without_a_change_of_the_reader(monkeypatch):
    """An entry of `targets.inputs` is enough; an unknown name is not a column."""
    extended = dict(inputs.INPUTS)
    extended["surprise"] = inputs.Input("surprise", "token", between(0, 1))
    row = GOOD | {"surprise": [0, 0.5], "other": [1]}
    assert to_record(row, QA, "f:1").columns == {}
    monkeypatch.setattr(inputs, "INPUTS", extended)
    monkeypatch.setattr(record_module, "INPUTS", extended)
    assert to_record(row, QA, "f:1").columns == {"surprise": [0.0, 0.5]}
    with pytest.raises(RowError, match=r"f:1: surprise is 2; expected a number"):
        to_record(row | {"surprise": 2}, QA, "f:1")


def test_numbers_that_float32_holds_are_read():
    """The largest, the smallest, and a log-probability that rounds to 0."""
    largest, smallest = 3.4028234663852886e38, 1.1754943508222875e-38
    row = GOOD | {"trajectory_weight": largest, "old_logprob": [-1e-300, -largest]}
    assert to_record(row, QA, "f:1").columns == {
        "trajectory_weight": largest,
        "old_logprob": [-1e-300, -largest],
    }
    row = GOOD | {"trajectory_weight": Decimal(smallest)}
    assert to_record(row, QA, "f:1").columns == {"trajectory_weight": smallest}


def test_numbers_become_text_as_python_writes_them():
    row = GOOD | {"answer": [1, 0.1, True, Decimal("1.50"), 1e22]}
    content = to_record(row, QA, "f:1").messages[-1]["content"]
    assert content.split("\n") == ["1", "0.1", "True", "1.50", "1e+22"]


@pytest.mark.parametrize(
    "error", [OverflowError("big"), RecursionError(), ValueError()]
)
def test_a_fault_of_a_library_becomes_the_error_of_its_row(error):
    assert isinstance(error, ROW_FAULTS)
    assert str(RowError.of("f:1", error)).startswith("f:1: ")
    own = RowError("f:2", "bad")
    assert RowError.of("f:1", own) is own


def turns(*pairs):
    return {"messages": [{"role": r, "content": c} for r, c in pairs]}


@pytest.mark.parametrize(
    "fields, row, problem",
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
        (QA, GOOD | {"answer": float("nan")}, "'answer' is nan; .* a finite number"),
        (QA, GOOD | {"answer": [float("inf")]}, "'answer' is inf; .* a finite number"),
        (QA, GOOD | {"answer": "\udfff"}, "'answer' has an unpaired surrogate"),
        (QA, GOOD | {"answer": Unreadable("a day")}, "field 'answer' is a day;"),
        (QA, GOOD | {"trajectory_weight": 10**400}, "is 1000+.*0.* 0 or more, that fl"),
        (QA, GOOD | {"trajectory_weight": 1e39}, "1e[+]39; .* float32 holds: 0, or 1"),
        (QA, GOOD | {"trajectory_weight": 1e-39}, "is 1e-39; .* float32 holds"),
        (QA, GOOD | {"old_logprob": -1e39}, "old_logprob is -1e[+]39"),
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
def test_a_bad_row_is_refused_with_its_place_and_reason(fields, row, problem):
    with pytest.raises(RowError, match=problem) as error:
        to_record(row, fields, "rows.jsonl:7")
    assert str(error.value).startswith("rows.jsonl:7: ")
