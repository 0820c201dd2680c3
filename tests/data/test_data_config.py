"""Every impossible combination is refused by the key that causes it."""

import dataclasses

import pytest

from targetsft_jax.data.config import (
    DataConfig,
    FieldMap,
    SourceConfig,
    SyntheticConfig,
    validate,
)

JSONL = DataConfig(source="jsonl", path="rows.jsonl")


def test_defaults_are_valid():
    validate(DataConfig())
    validate(JSONL)


@pytest.mark.parametrize(
    "key, changes",
    [
        ("source", dict(source="csv")),
        ("path", dict(source="parquet")),
        ("path", dict(source="hf_dataset")),
        ("path", dict(source="hf_dataset", path=["a", "b"])),
        ("dataset", dict(source="tfds")),
        ("dataset", dict(source="tfds", dataset="gsm9k")),
        ("dataset", dict(dataset="gsm8k")),
        ("split", dict(source="tfds", dataset="gsm8k", split="dev")),
        ("split", dict(split="train")),
        ("data_dir", dict(data_dir="d")),
        ("weight", dict(weight=1.0)),
        ("overlong", dict(overlong="cut")),
        ("on_bad_row", dict(on_bad_row="ignore")),
        ("max_length", dict(max_length=1)),
        ("limit", dict(limit=0)),
        ("shuffle_seed", dict(shuffle_seed=-1)),
        ("path", dict(path="rows.jsonl")),
        ("where", dict(where={"split": "train"})),
        ("synthetic.kinds", dict(synthetic=SyntheticConfig(kinds={"division": 1.0}))),
        ("synthetic.kinds", dict(synthetic=SyntheticConfig(kinds={}))),
        ("synthetic.kinds", dict(synthetic=SyntheticConfig(kinds={"dosing": -1.0}))),
        ("synthetic.digits", dict(synthetic=SyntheticConfig(digits=0))),
        ("synthetic.examples", dict(synthetic=SyntheticConfig(examples=0))),
        ("synthetic.label_noise", dict(synthetic=SyntheticConfig(label_noise=1.5))),
        ("synthetic.seed", dict(synthetic=SyntheticConfig(seed=-1))),
        ("synthetic.split", dict(synthetic=SyntheticConfig(split="test"))),
    ],
)
def test_names_the_key(key, changes):
    with pytest.raises(ValueError, match=rf"^data\.{key} is "):
        validate(dataclasses.replace(DataConfig(), **changes))


@pytest.mark.parametrize(
    "key, changes",
    [
        ("path", dict(path=None)),
        ("path", dict(path=[])),
        ("fields.prompt", dict(fields=FieldMap(response="answer"))),
        ("fields.messages", dict(fields=FieldMap(messages=None))),
        ("fields.prompt", dict(fields=FieldMap(prompt="{question"))),
        ("fields.response", dict(fields=FieldMap(prompt="q", response="{}"))),
        ("fields.system", dict(fields=FieldMap(system="{a!r}"))),
        ("split", dict(split="train")),
    ],
)
def test_names_the_key_of_a_file(key, changes):
    with pytest.raises(ValueError, match=rf"^run\.data\.{key} is "):
        validate(dataclasses.replace(JSONL, **changes), "run.data")


@pytest.mark.parametrize(
    "key, condition",
    [
        ("where.x.matches", {"matches": "("}),
        ("where.x.min", {"min": "3"}),
        ("where.x.max_chars", {"max_chars": -1}),
        ("where.x.like", {"like": "a"}),
        ("where.x", {}),
        ("where.x", []),
        ("where.x", None),
        ("where.x.not", {"not": [["a"]]}),
    ],
)
def test_a_condition_is_refused_before_anything_is_read(key, condition):
    with pytest.raises(ValueError, match=rf"^data\.{key} is "):
        validate(dataclasses.replace(JSONL, where={"x": condition}))


OWN = SourceConfig(source="jsonl", path="a.jsonl", weight=1.0)
OTHER = SourceConfig(weight=2)


def test_a_mixture_is_valid():
    validate(DataConfig(mixture=[OWN, OTHER]))
    validate(DataConfig(mixture=[OWN, dataclasses.replace(OWN, name="other")]))


@pytest.mark.parametrize(
    "key, mixture",
    [
        (r"mixture\[1\]\.name", [OWN, OWN]),
        (r"mixture\[1\]\.weight", [OWN, dataclasses.replace(OTHER, weight=None)]),
        (r"mixture\[0\]\.weight", [dataclasses.replace(OWN, weight=0), OTHER]),
        (r"mixture\[1\]\.limit", [OWN, dataclasses.replace(OTHER, limit=0)]),
    ],
)
def test_names_the_key_of_a_mixture(key, mixture):
    with pytest.raises(ValueError, match=rf"^data\.{key} is "):
        validate(DataConfig(mixture=mixture))


def test_a_mixture_stands_alone():
    with pytest.raises(ValueError, match=r"^data\.limit is 3; expected nothing"):
        validate(DataConfig(mixture=[OWN, OTHER], limit=3))
