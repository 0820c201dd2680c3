"""JSON of others: unique keys, bounded depth and digits."""

import math

import pytest

from targetsft_jax.storage.json_file import DEPTH, parse, read_object


@pytest.mark.parametrize(
    "text, message",
    [
        ('{"a": 1, "a": 2}', "key 'a' twice"),
        ('[{"b": {"c": 1, "c": 1}}]', "key 'c' twice"),
        ("[" * 100_000, "more than 64 nested levels|not JSON"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "more than 64 nested levels"),
        ('{"a":' * 70 + "1" + "}" * 70, "more than 64 nested levels"),
        ("1" * 50, "an integer of 50 digits"),
        ("1" * 5000, "an integer of 5,000 digits"),
        ("{", "not JSON"),
        ("", "not JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_refusals(text, message):
    with pytest.raises(ValueError, match=f"^here.*({message})"):
        parse(text, "here")


def test_values_of_the_deepest_level_and_constants():
    assert parse("[" * DEPTH + "]" * DEPTH, "here")
    assert math.isnan(parse("NaN", "here")) and parse("1e3", "here") == 1000.0


@pytest.mark.parametrize("content", [b"[1]", b"3", "{}".encode("utf-16"), b"\xff{}"])
def test_a_file_holds_one_object(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}"):
        read_object(path)
    path.write_bytes(b'\xef\xbb\xbf{"a": [1]}')
    assert read_object(path) == {"a": [1]}
