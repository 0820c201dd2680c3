"""Restricted YAML: unique keys, decimal numbers, bounded aliases, depth and size."""

import math
import time

import pytest
import yaml

from targetsft_jax.storage.yaml_file import (
    DEPTH,
    NODES,
    YamlError,
    dump,
    parse,
    read_mapping,
)

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-3", 0.001),
        ("1e5", 100_000.0),
        ("1_000", 1000),
        ("-7", -7),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("~", None),
        ("", None),
        ("on", True),
        ("'on'", "on"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("!!str 12", "12"),
        ("1" * 5000, "1" * 5000),
        ("{on: 1, 2024: 2, null: 3}", {"on": 1, "2024": 2, "null": 3}),
    ],
)
def test_values(text, value):
    result = parse(text, "here")
    assert result == value and type(result) is type(value)


def test_anchors_and_merge_keys_are_expanded():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [{x: 5}, *a]}\nd: [*a, *a]"
    tree = parse(text, "here")
    assert tree["b"] == {"x": 1, "y": 3} and tree["c"] == {"x": 5, "y": 2}
    assert tree["d"] == [tree["a"]] * 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: 2\na: 3", "line 3: key 'a' for the second time.*line 1"),
        ("x:\n  a: 1\n  a: 1", "line 3: key 'a' for the second time"),
        ("x: {a: 1, a: 1}", "line 1: key 'a'"),
        ("- {a: 1,\n   a: 1}", "line 2: key 'a'"),
        ("a: &a\n - *a", r"line 2: alias \*a inside of itself"),
        ("a: &a {<<: *a}", r"alias \*a inside of itself"),
        ("a: *b", r"alias \*b of no anchor"),
        ("? [a]\n: 1", "a list or mapping as a key"),
        ("<<: 3", "merge key << without a mapping"),
        ("a: !!python/object/apply:os.system [x]", "tag .*os.system"),
        ("a: !!binary eA==", "tag .*binary"),
        ("a: 1\n---\nb: 1", "line 2: a second document"),
        ("a:\n\t- x", "line 2: not YAML"),
        ("a: b: c", "line 1: not YAML"),
        ("{", "not YAML"),
        (BOMB, "more than 50,000 values, with aliases expanded"),
        ("a: [" + "1," * NODES + "1]", "more than 50,000 values"),
        ("- " * (DEPTH + 1) + "x", f"more than {DEPTH} nested levels"),
        ("[" * 100_000, "line 1: .*(nest|not YAML)"),
        ('a: "\\ud800"', "line 1: not YAML"),
        ("a: \udc80", "characters that UTF-8 lacks"),
    ],
    ids=lambda value: value[:20],
)
def test_refusals_name_the_line_in_no_time(text, message):
    began = time.perf_counter()
    with pytest.raises(YamlError, match=f"^here.*({message})"):
        parse(text, "here")
    assert time.perf_counter() - began < 2


def test_the_deepest_value_is_read():
    assert parse("[" * DEPTH + "]" * DEPTH, "here")


@pytest.mark.parametrize(
    "text, found",
    [("", "empty"), ("# x\n", "empty"), ("- 1", "a list"), ("3", "a single value")],
)
def test_a_file_holds_one_mapping(text, found, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path} is {found}; expected a mapping"):
        read_mapping(path)


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("a: 1\n" + "#" * 2**20)
    with pytest.raises(ValueError, match="bytes; expected at most 1,048,576"):
        read_mapping(path)


def test_dump_and_parse_are_inverse():
    tree = {
        "floats": [1e-7, 1e23, -0.5, 3.0, math.inf],
        "texts": ["1e-7", "010", "1:30", "on", "null", "2024-01-01", "", "é\n", "<<"],
        "others": [None, True, 3, {}, [], {"a": {"b": [1]}}],
    }
    assert parse(dump(tree), "here") == tree
    shared = {"x": [1]}
    assert "&" not in dump({"a": shared, "b": shared})
    assert yaml.safe_load(dump(tree))["others"] == tree["others"]
