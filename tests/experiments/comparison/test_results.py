"""results.jsonl: round trip, and damaged rows named with file, line and key."""

import json
import re

import pytest

from targetsft_jax.experiments.comparison.results import read, write


def test_rows_are_read_as_written(tmp_path, make_rows):
    rows = make_rows()
    write(tmp_path / "results.jsonl", rows)
    assert read(tmp_path / "results.jsonl") == rows


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": 0}, "samples is 0; expected a whole number of at least 1"),
        ({"samples": True}, "samples is true; expected"),
        ({"problems": ["a", "a"]}, 'problems is ["a", "a"]; expected a list of'),
        ({"correct": [1]}, "correct has 1 numbers; expected 12, one per problem"),
        ({"correct": [5] * 12}, "correct is 5 for problem one0; expected 0 to 4"),
        ({"correct": [-1] * 12}, "correct is -1 for problem one0"),
        ({"learning_rate": "x"}, 'learning_rate is "x"; expected a number or null'),
        ({"history": {"step": [1], "nll": []}}, "expected an object of lists"),
        ({"method": ""}, 'method is ""; expected a text, not empty'),
        ({"extra": 1}, "has the unknown key 'extra'"),
    ],
)
def test_a_damaged_row_is_named(change, message, tmp_path, make_rows):
    path = tmp_path / "results.jsonl"
    write(path, make_rows()[:2])
    first, second = path.read_text().splitlines()
    damaged = json.dumps(json.loads(second) | change)
    path.write_text(f"{first}\n{damaged}\n")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:2")


@pytest.mark.parametrize(
    "line, message",
    [("{", "is not JSON"), ("[]", "expected an object"), ("{}", "no key 'setting'")],
)
def test_a_line_that_is_no_result_is_named(line, message, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(line)
    with pytest.raises(ValueError, match=message) as error:
        read(path)
    assert f"{path}:1" in str(error.value)
