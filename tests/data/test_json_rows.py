"""JSON rows within limits, each limit by itself."""

import json
import re

import pytest

from targetsft_jax.data import json_rows
from targetsft_jax.data.json_rows import MAX_DEPTH, MAX_DIGITS, decode, parse_row
from targetsft_jax.data.row_error import RowError


def _nested(depth):
    """A row of this many levels."""
    return b'{"a": ' + b"[" * (depth - 1) + b"1" + b"]" * (depth - 1) + b"}"


@pytest.mark.parametrize(
    "line, problem",
    [
        (b'{"a": ', "not JSON"),
        (b"[1, 2]", "a JSON list; expected an object"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "an object with the key 'c' twice"),
        (b'{"a": ' + b"1" * 5000 + b"}", "an integer of 5,000 digits; .* most 4,300"),
        (_nested(MAX_DEPTH + 1), "nested more than 100 levels deep"),
        (_nested(100_000), "nested more than 100 levels deep"),
    ],
)
def test_a_bad_line_is_refused_with_its_place_and_reason(line, problem):
    with pytest.raises(RowError, match=f"rows.jsonl:7: {problem}"):
        parse_row(line, "rows.jsonl:7")


def test_rows_at_the_limits_are_read():
    assert parse_row(_nested(MAX_DEPTH), "f:1")["a"]
    number = "9" * MAX_DIGITS
    assert parse_row(f'{{"a": {number}}}'.encode(), "f:1") == {"a": int(number)}


def test_a_long_line_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(json_rows, "MAX_LINE", 2**20)
    with pytest.raises(RowError, match="f:1: a line of more than 1 MiB"):
        parse_row(b"[" * (2**20 + 1), "f:1")


def test_a_part_beyond_the_limits_spoils_its_row_alone():
    """Rows of a document are decoded together."""
    rows = decode(f'[{{"a": {"1" * 5000}}}, {{"a": 1}}, {{"b": 1, "b": 2}}]')
    assert parse_row(rows[1], "f:2") == {"a": 1}
    with pytest.raises(RowError, match="f:1: an integer of 5,000 digits"):
        parse_row(rows[0], "f:1")
    with pytest.raises(RowError, match="f:3: an object with the key 'b' twice"):
        parse_row({"inner": [rows[2]]}, "f:3")
    with pytest.raises(RowError, match="f:3: an object with the key 'b' twice"):
        parse_row(rows[2], "f:3")


@pytest.mark.parametrize("key", ["\ud800", "a\nb", "\x1b[2J", "x" * 10**6])
def test_errors_are_one_printable_line(key):
    line = json.dumps({key: 1})[:-1] + ", " + json.dumps({key: 1})[1:]
    with pytest.raises(RowError) as error:
        parse_row(line.encode(), "f:1")
    message = str(error.value)
    assert message.isprintable() and len(message) < 1000
    assert re.match("f:1: an object with the key", message)


def test_a_repeated_key_of_many_is_found_in_one_pass():
    """Counting each key would take minutes."""
    keys = [*range(200_000), 199_999]
    line = "{" + ", ".join(f'"k{key}": 1' for key in keys) + "}"
    with pytest.raises(RowError, match="the key 'k199999' twice"):
        parse_row(line.encode(), "rows.jsonl:1")
