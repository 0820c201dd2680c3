"""Typed sections from plain values: merging, overrides, types by annotation."""

import pytest

from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.config.tree import UnknownKey, build, merge, override, words


def _built(*trees):
    tree = {}
    for new in trees:
        tree = merge(Config, tree, new)
    return build(Config, tree)


def test_later_values_change_only_the_specified_keys_of_a_section():
    config = _built(
        {"student": {"build": {"steps": 5, "seed": 2}}, "lora": {"rank": 3}},
        {"student": {"build": {"steps": 7}}, "lora": {"alpha": 1}},
    )
    assert (config.student.build.steps, config.student.build.seed) == (7, 2)
    assert (config.lora.rank, config.lora.alpha) == (3, 1.0)


def test_null_and_an_empty_mapping_of_an_optional_section():
    assert _built({"lora": {"rank": 3}}, {"lora": None}).lora is None
    assert _built({"lora": {}}).lora.rank == 16
    assert _built({"lora": None}, {"lora": {"rank": 3}}).lora.rank == 3


def test_numbers_have_the_type_of_their_key():
    config = _built({"train": {"steps": 1e3, "epochs": 2}})
    assert type(config.train.steps) is int and config.train.steps == 1000
    assert type(config.train.epochs) is float


@pytest.mark.parametrize(
    "tree, message",
    [
        ({"run_dir": None}, "run_dir is None; expected a text"),
        ({"run_dir": 3}, "run_dir is 3; expected a text"),
        ({"train": {"steps": True}}, "train.steps is True; expected a whole number or"),
        ({"train": {"steps": "1e5"}}, "train.steps is '1e5'; expected a whole number"),
        ({"train": None}, "train is None; expected a section with keys such as train."),
        ({"lora": {"rank": None}}, "lora.rank is None; expected a whole number"),
        ({"lora": {"targets": ["q", 3]}}, r"lora.targets\[1\] is 3; expected a text"),
        ({"data": {"mixture": [{"limit": "x"}]}}, r"data.mixture\[0\].limit is 'x'"),
        ({"data": {"mixture": [3]}}, r"data.mixture\[0\] is 3; expected a section"),
        (
            {"data": {"synthetic": {"kinds": {"addition": "x"}}}},
            "kinds.addition is 'x'",
        ),
        (
            {"target": {"gamma": [1]}},
            "target.gamma is .*a number, a text, a mapping or",
        ),
    ],
)
def test_a_value_of_another_type_names_its_path(tree, message):
    with pytest.raises(ConfigError, match=message):
        merge(Config, {}, tree)


@pytest.mark.parametrize(
    "path, text, value",
    [
        ("run_dir", "123", "123"),
        ("run_dir", "a: b: c", "a: b: c"),
        ("student.path", "1e3", "1e3"),
        ("student.path", "null", None),
        ("data.path", "[a, b]", ["a", "b"]),
        ("data.path", "[a", "[a"),
        ("train.steps", "1_000", 1000),
        ("target.gamma", "{power: 2}", {"power": 2.0}),
        ("target.gamma", "dft", "dft"),
        ("target.gamma", "0.5", 0.5),
        ("data.where.a.b", "{min: 3}", None),
    ],
)
def test_overrides_read_yaml_where_the_type_includes_it(path, text, value):
    tree = override(Config, {}, path, text)
    if path.startswith("data.where"):
        assert tree == {"data": {"where": {"a.b": {"min": 3}}}}
        return
    for name in path.split("."):
        tree = tree[name]
    assert tree == value and type(tree) is type(value)


@pytest.mark.parametrize("path", ["nope", "train.nope", "train.steps.x", "a.b.c", ""])
def test_an_unknown_path(path):
    with pytest.raises(UnknownKey) as error:
        override(Config, {}, path, "3")
    assert error.value.path == path
    if path == "train.nope":
        with pytest.raises(UnknownKey):
            merge(Config, {}, {"train": {"nope": 3}})


@pytest.mark.parametrize(
    "path, text, message",
    [
        ("run_dir", "null", "run_dir is None; expected a text"),
        ("train.steps", "", "train.steps is ''; expected a whole number or null"),
        ("train.steps", "010", "train.steps is '010'; expected a whole number or null"),
        ("lora", "config.yaml", "lora is 'config.yaml'; expected a section"),
        (
            "lora",
            "{rank: 1, rank: 2}",
            "--lora, line 1: key 'rank' for the",
        ),
        ("policy.clip", "[1, x]", r"policy.clip\[1\] is 'x'; expected a number"),
    ],
)
def test_an_override_of_another_type(path, text, message):
    with pytest.raises(ConfigError, match=message):
        override(Config, {}, path, text)


def test_annotations_in_words():
    assert words(int | None) == words(None | int) == "a whole number or null"
    assert words(float | str | dict[str, float]) == "a number, a text or a mapping"
