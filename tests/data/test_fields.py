"""Templates with optional holes: a hole without text takes its white space along."""

import pytest

from targetsft_jax.data.config import DataConfig, validate
from targetsft_jax.data.fields import FieldMap, literal_escape, parts, used_fields
from targetsft_jax.data.record import to_record
from targetsft_jax.data.row_error import RowError


def test_parts_of_a_template():
    assert list(parts("Q: {a}\n{{b}} {c.d?}!")) == [
        ("Q: ", "a", False),
        ("\n{", None, False),
        ("b}", None, False),
        (" ", "c.d", True),
        ("!", None, False),
    ]


@pytest.mark.parametrize(
    "row, text",
    [
        ({}, "Q: 1\n\nAnswer."),
        ({"hint": None}, "Q: 1\n\nAnswer."),
        ({"hint": " "}, "Q: 1\n\nAnswer."),
        ({"hint": []}, "Q: 1\n\nAnswer."),
        ({"hint": "two"}, "Q: 1\n\ntwo\n\nAnswer."),
        ({"hint": 0}, "Q: 1\n\n0\n\nAnswer."),
    ],
)
def test_an_optional_hole_may_be_empty(row, text):
    fields = FieldMap(prompt="Q: {q}\n\n{hint?}\n\nAnswer.", response="{a?}")
    record = to_record(row | {"q": 1, "a": 2}, fields, "f:1")
    assert record.messages[0]["content"] == text
    with pytest.raises(RowError, match="f:1: field '{a[?]}' is empty"):
        to_record(row | {"q": 1}, fields, "f:1")
    with pytest.raises(RowError, match="f:1: field 'q' is missing"):
        to_record(row | {"a": 1}, fields, "f:1")
    with pytest.raises(RowError, match="f:1: field 'hint' is dict"):
        to_record({"q": 1, "a": 1, "hint": {}}, fields, "f:1")


def test_used_fields_are_optional_or_not():
    fields = FieldMap(prompt="{a}{b?}", response="c", system="{d?}", answer="e")
    uses = [("a", True), ("b", False), ("c", True), ("d", False), ("e", True)]
    assert list(used_fields(fields, [])) == uses
    # The name of a field is not read as a template.
    assert list(used_fields(FieldMap(messages="{m}"), ["{m}"])) == [("{m}", True)]


@pytest.mark.parametrize(
    "template, escape",
    [
        (r"{a}\n\n{b}", r"\n"),
        (r"Question:\nAnswer", r"\n"),
        (r"{a}\n", r"\n"),
        (r"{a}\nanswer: {b}", r"\n"),
        (r"{a}\t{b}", r"\t"),
        ("{a}\n\n{b}", None),
        (r"$\nabla f \neq \text{{x}}$ {a}", None),
        (r"\boxed{{{a}}}", None),
    ],
)
def test_an_escape_that_a_shell_left_is_refused(template, escape):
    assert literal_escape(template) == escape
    for fields in (
        FieldMap(prompt=template, response="r"),
        FieldMap(prompt="p", response=template, system="s"),
    ):
        config = DataConfig(path="rows.jsonl", fields=fields)
        if escape is None:
            validate(config)
            continue
        with pytest.raises(ValueError, match="expected a line break in place of") as e:
            validate(config)
        assert f"$'{template}' in the shell" in str(e.value)
        assert str(e.value).startswith("data.fields.")
