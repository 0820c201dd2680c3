"""Items of a JSON list, whatever the parts in which it is read."""

import io
import json
import random

import pytest

from targetsft_jax.data import json_list
from targetsft_jax.data.json_list import NotAList, items


def _items(text, size):
    file = io.BytesIO(text)
    return list(items(lambda: file.read(size)))


def _value(rng, depth=0):
    kind = rng.randrange(6 if depth < 4 else 4)
    if kind < 4:
        return rng.choice(
            ["", 'a"b', "\\", '[{},]"', '\\"', "é🙂\n", None, 0.5, 10**30]
        )
    values = [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 4:
        return values
    return {str(i) + rng.choice(["", '"', "]"]): x for i, x in enumerate(values)}


def test_items_are_those_of_the_standard_library():
    rng = random.Random(0)
    for _ in range(1000):
        value = [_value(rng) for _ in range(rng.randrange(6))]
        indent, ascii = rng.choice([None, 1]), rng.random() < 0.5
        text = json.dumps(value, indent=indent, ensure_ascii=ascii).encode()
        assert [json.loads(x) for x in _items(text, rng.randrange(1, 40))] == value


@pytest.mark.parametrize(
    "text, problem",
    [
        (b"[", "the list does not end"),
        (b'["a]', "the list does not end"),
        (b'[{"a": 1]', "the list does not end"),
        (b"[1}", "its brackets do not match"),
        (b"[1] 2", "text follows the list"),
        (b"[1][2]", "text follows the list"),
        (b"[" * 20_000, "nested too deeply"),
        (b'["' + b"x" * 50_000, "a row has more than"),
        (b"[" + b"1" * 50_000, "a row has more than"),
    ],
)
def test_another_text_is_refused(text, problem, monkeypatch):
    monkeypatch.setattr(json_list, "MAX_LINE", 40_000)
    for size in (3, 100, 10**6):
        with pytest.raises(NotAList, match=problem):
            _items(text, size)


def test_an_item_that_is_not_json_is_left_to_the_parser_of_rows():
    assert _items(b"[1, oops,, 2]", 2) == [b"1", b"oops", b"", b"2"]


def test_one_item_is_in_memory_at_a_time():
    row = b'{"a": "' + b"x" * 900 + b'"}'
    number = 10_000
    parts = iter([b"[", *[row + b","] * number, row + b"]"])
    stream = items(lambda: next(parts, b""))
    assert next(stream) == row
    assert sum(1 for _ in parts) > number - 3  # The rest was not read.
