"""Every impossible combination is refused by the key that causes it."""

import dataclasses

import pytest

from targetsft_jax.data.config import DataConfig, EmbeddedConfig, FieldMap, validate

JSONL = DataConfig(source="jsonl", path="rows.jsonl")


def test_defaults_are_valid():
    validate(DataConfig())
    validate(JSONL)


@pytest.mark.parametrize(
    "key, changes",
    [
        ("source", dict(source="parquet")),
        ("overlong", dict(overlong="cut")),
        ("on_bad_row", dict(on_bad_row="ignore")),
        ("max_length", dict(max_length=1)),
        ("limit", dict(limit=0)),
        ("shuffle_seed", dict(shuffle_seed=-1)),
        ("path", dict(path="rows.jsonl")),
        ("where", dict(where={"split": "train"})),
        ("embedded.kinds", dict(embedded=EmbeddedConfig(kinds={"division": 1.0}))),
        ("embedded.kinds", dict(embedded=EmbeddedConfig(kinds={}))),
        (
            "embedded.kinds.dosing",
            dict(embedded=EmbeddedConfig(kinds={"dosing": -1.0})),
        ),
        ("embedded.digits", dict(embedded=EmbeddedConfig(digits=0))),
        ("embedded.examples", dict(embedded=EmbeddedConfig(examples=0))),
        ("embedded.label_noise", dict(embedded=EmbeddedConfig(label_noise=1.5))),
        ("embedded.seed", dict(embedded=EmbeddedConfig(seed=-1))),
        ("embedded.split", dict(embedded=EmbeddedConfig(split="test"))),
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
    ],
)
def test_names_the_key_of_a_file(key, changes):
    with pytest.raises(ValueError, match=rf"^run\.data\.{key} is "):
        validate(dataclasses.replace(JSONL, **changes), "run.data")
