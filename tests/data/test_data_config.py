"""Every impossible combination is refused by the key that causes it."""

import dataclasses

import pytest

from targetsft_jax.data.config import (
    DataConfig,
    SourceConfig,
    SyntheticConfig,
    contradictions,
    validate,
)
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.keys import refusals, resumable_keys

JSONL = DataConfig(source="jsonl", path="rows.jsonl")


def test_defaults_are_valid():
    validate(DataConfig())
    validate(JSONL)
    # A path is enough.
    config = DataConfig(path="rows.jsonl", split="train", where={"a": 1})
    validate(config)
    assert (config.kind, DataConfig().kind, JSONL.kind) == (
        "files",
        "synthetic",
        "jsonl",
    )


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
        ("path", dict(source="files")),
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


def test_a_mixture_excludes_the_keys_of_a_source():
    with pytest.raises(ValueError, match=r"^data\.limit is 3; expected nothing"):
        validate(DataConfig(mixture=[OWN, OTHER], limit=3))


def test_keys_are_declared_with_help_and_only_the_cache_may_change_in_a_resumption():
    for section in (FieldMap, SyntheticConfig, SourceConfig, DataConfig):
        for field in dataclasses.fields(section):
            assert field.metadata["help"].endswith("."), field.name
    assert list(resumable_keys(DataConfig, "data.")) == ["data.cache"]


def test_contradictions_and_domains_are_refused_apart():
    """A section of a larger tree is searched for domains by `keys.refusals` alone."""
    wrong = DataConfig(thinking="loud", split="dev")
    assert [text.split(" is ")[0] for text in refusals(wrong, "data.")] == [
        "data.thinking"
    ]
    assert [text.split(" is ")[0] for text in contradictions(wrong)] == ["data.split"]


@pytest.mark.parametrize(
    "text, accepted",
    [
        ("question", True),
        ("options.A", True),
        ("{A}\n\n{b} {{brace}}", True),
        ("{}", False),
        ("{a!r}", False),
        ("{a:>3}", False),
        ("{a", False),
        ("a}", False),
    ],
)
def test_templates(text, accepted):
    config = dataclasses.replace(JSONL, fields=FieldMap(prompt="q", response=text))
    if accepted:
        validate(config)
    else:
        with pytest.raises(ValueError, match=r"^data\.fields\.response is .*template"):
            validate(config)
