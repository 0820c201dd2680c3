"""Examples of the catalogue are validated when they are built."""

import pytest

from targetsft_jax.data.catalogue.entry import FIELDS, DataSet, FileLayout, letter
from targetsft_jax.data.catalogue.entry import example as make_example


def test_texts_are_stripped_and_missing_fields_empty():
    example = make_example(" Which? ", "B", options=["iron ", " zinc"], id=7)
    assert tuple(example) == FIELDS
    assert example["question"] == "Which?" and example["answer"] == "B"
    assert example["options"] == ["iron", "zinc"] and example["id"] == "7"
    assert example["source"] == example["reasoning"] == ""


@pytest.mark.parametrize(
    "question, answer, options, problem",
    [
        (" ", "1", (), "the question is ' '; expected text"),
        (None, "1", (), "the question is None"),
        ("?", "A", ("x", ""), "option B is ''; expected text"),
        ("?", "C", ("x", "y"), "the answer is 'C'; expected one of A, B"),
        ("?", "", ("x", "y"), "the answer is ''"),
        ("?", "AB", ("x", "y"), "the answer is 'AB'"),
    ],
)
def test_an_impossible_example_is_refused(question, answer, options, problem):
    with pytest.raises(ValueError, match=problem):
        make_example(question, answer, options=options)


@pytest.mark.parametrize(
    "field, value, problem",
    [
        ("answer", 2, "the answer is 2; expected text"),
        ("reasoning", ["so"], r"the reasoning is \['so'\]; expected text"),
        ("reasoning", "\ud800", "the reasoning has an unpaired surrogate"),
        ("id", "\ud800", r"a field is '\\ud800'; expected text"),
        ("source", 1.5, "the source is 1.5; expected text"),
        ("id", float("nan"), "a field is nan; expected text or a finite number"),
        ("options", "AB", "the options are 'AB'; expected a list"),
        ("options", ["x"] * 27, "expected a list of up to 26"),
        ("options", ["x", "\ud800"], "the options has an unpaired surrogate"),
    ],
)
def test_fields_are_text_that_can_be_written(field, value, problem):
    fields = {"question": "?", "answer": "A"} | {field: value}
    with pytest.raises(ValueError, match=problem):
        make_example(**fields)


def test_letters_are_numbered_from_zero():
    assert [letter(i) for i in (0, 1, 25)] == ["A", "B", "Z"]
    for index in (-1, 26, "1", 1.0, True):
        with pytest.raises(ValueError, match="an option has index"):
            letter(index)


def test_splits_are_those_of_all_layouts_in_order():
    layouts = [
        FileLayout({"train": ["a"], "test": ["b"]}, lambda row: None),
        FileLayout({"test": ["b"], "dev": ["c"]}, lambda row: None),
    ]
    assert DataSet("", "", "", "", layouts).splits == ("train", "test", "dev")
