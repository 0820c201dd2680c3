"""Row filters on texts and numbers, and the field that decides."""

import pytest

from targetsft_jax.data.filters import conditions
from targetsft_jax.data.record import first_unmet
from targetsft_jax.data.row_error import RowError


@pytest.mark.parametrize(
    "condition, expected",
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
def test_conditions_on_text(condition, expected):
    tests = conditions({"x": condition})
    rows = {"a": "a", "b": "b", "c": "c", "d": None}
    passed = [k for k, v in rows.items() if first_unmet({"x": v}, tests, "f:1") is None]
    assert "".join(passed) == expected  # the null d is empty text


def test_conditions_on_numbers():
    tests = conditions({"meta.year": {"min": 2000, "max": 2010.5}})
    years = [1999, 2000, "2010", 2010.5, 2011, None]
    expected = [
        y for y in years if first_unmet({"meta": {"year": y}}, tests, "f:1") is None
    ]
    assert expected == [2000, "2010", 2010.5]
    for name in ("min", "max"):
        assert first_unmet({"x": None}, conditions({"x": {name: 5}}), "f:1") == "x"
    with pytest.raises(RowError, match="f:1: field 'meta.year' is 'x'; expected a num"):
        first_unmet({"meta": {"year": "x"}}, tests, "f:1")


@pytest.mark.parametrize("value", ["nan", "NaN", "-nan", float("nan")])
def test_nan_is_not_left_out_as_if_it_were_small(value):
    with pytest.raises(RowError, match="f:1: field 'x' is"):
        first_unmet({"x": value}, conditions({"x": {"min": 1}}), "f:1")


def test_a_field_must_satisfy_all_and_the_first_that_does_not_is_named():
    tests = conditions({"a": {"min": 1, "max": 3}, "b": True})
    assert first_unmet({"a": 2, "b": True}, tests, "f:1") is None
    assert first_unmet({"a": 4, "b": False}, tests, "f:1") == "a"
    assert first_unmet({"a": 3, "b": False}, tests, "f:1") == "b"
