"""Malformed configurations: each refused by its key, before anything is opened."""

import dataclasses
import typing

import pytest
import yaml

from targetsft_jax.config.load import keys
from targetsft_jax.config.schema import Config
from targetsft_jax.train import main

WRONG = {
    int: ("many", "1.5", "[1]", "{a: 1}", "1e999", "nan", "''"),
    float: ("much", "[0.1]", "{a: 1}", "nan", "''", "0.1.2"),
    bool: ("maybe", "2", "[true]", "{}", "''"),
    list: ("3", "1.5", "true"),
    dict: ("3", "[1]", "text", "true"),
    dataclasses.dataclass: ("3", "text", "[1]", "true", "{no_such_key: 1}"),
}


def _leaves(section, prefix=""):
    """(key, type) of all keys and sections of the configuration tree."""
    for name, kind in typing.get_type_hints(section).items():
        parts = [p for p in typing.get_args(kind) or (kind,) if p is not type(None)]
        first = parts[0]
        plain = typing.get_origin(kind) or first
        if dataclasses.is_dataclass(first) and plain is not list:
            yield f"{prefix}{name}", dataclasses.dataclass
            yield from _leaves(first, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", plain if plain in (list, dict) else first


def _once(key):
    """False for keys of sections that repeat an earlier section."""
    again = ("evaluation.data.", "validation.data.", "teacher.", "reference.")
    return not key.startswith(again)


LEAVES = [(k, kind) for k, kind in _leaves(Config) if kind in WRONG and _once(k)]
# Mappings with arbitrary keys.
FREE = ("data.where.", "data.mixture.where.")


def _refused(capsys, arguments, *named):
    """Expect exit code 2 and one message that contains all of `named`."""
    assert main(arguments) == 2, arguments
    message = capsys.readouterr().err
    assert message.startswith("configuration: ") and "Traceback" not in message
    for part in named:
        assert part in message, (arguments, message)


@pytest.mark.sweep(16)
@pytest.mark.parametrize("key, kind", LEAVES, ids=[key for key, _ in LEAVES])
def test_a_value_of_another_type(key, kind, capsys, count, confined, tmp_path):
    confined(tmp_path)
    for value in WRONG[kind]:
        _refused(capsys, [f"--{key}", value], key.rpartition(".")[2])
        count("configurations", "refused by key")


@pytest.mark.sweep(16)
@pytest.mark.parametrize("key", [key for key in keys() if _once(key)])
def test_a_misspelt_key(key, capsys, count, confined, tmp_path):
    """A letter too many or too few, in a file and on the command line."""
    config = tmp_path / "config.yaml"
    confined(tmp_path)
    head, _, name = key.rpartition(".")
    for wrong in (name + "s", name[:-1]):
        full = f"{head}.{wrong}".strip(".")
        if full in keys() or full.startswith(FREE):
            continue
        tree = "x"
        for part in reversed(full.split(".")):
            tree = {part: tree}
        config.write_text(yaml.safe_dump(tree))
        _refused(capsys, ["--config", str(config)], wrong.partition(".")[0])
        count("configurations", "refused by key")
        _refused(capsys, [f"--{full}", "x"], wrong.partition(".")[0])
        count("configurations", "refused by key")


@pytest.mark.parametrize(
    "text",
    ["", "[", "- 1\n- 2", "3", "a: b: c", "train: 3", "\x00", "{", "train:\n\t- x"],
)
def test_a_file_that_is_not_a_configuration(text, tmp_path, capsys, count, confined):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    confined(tmp_path)
    code = main(["--config", str(path)])
    message = capsys.readouterr().err
    assert (
        code == 2
        and message.startswith("configuration: ")
        and "Traceback" not in message
    )
    count("configurations", "refused")
