"""Hostile values of every setting: meaningful, or refused by key at once."""

import json
import time
import warnings

import pytest
import yaml
from support.hf_folders import SIZES

from targetsft_jax.config.load import keys, load
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.hf.config_domains import CONFIG
from targetsft_jax.hf.families import FAMILIES
from targetsft_jax.hf.importer import load_config
from targetsft_jax.hf.tensor_map import checkpoint_tensors

VALUES = (None, "", " ", "x", True, [], {}, [1], {"a": 1}, -1, 0, 3.5, 1e23, 10**30)
VALUES += (
    float("nan"),
    float("inf"),
    -float("inf"),
    1e300,
    1e-300,
    2**31,
    [[]],
    [None],
)
VALUES += ("1e5", "a\nb", "~no_such_user/x", "/", "..", "y" * 10_000, "é" * 300)
TEXTS = (
    "null",
    "",
    " ",
    "[]",
    "{}",
    "[",
    "{",
    "*a",
    "&a [*a]",
    "!!python/none x",
    "010",
)
TEXTS += (
    "1:30",
    "0x1",
    ".nan",
    "-.inf",
    "1e999",
    "1e23",
    "9" * 5000,
    "\udc80",
    "a: b: c",
)
TEXTS += ("y" * 10_000, "{a: 1, a: 2}", "/dev/zero", "on", "-", "%", "@", "\t")
AGAIN = ("evaluation.data.", "validation.data.", "teacher.", "reference.")
KEYS = [key for key in keys() if not key.startswith(AGAIN)]


def _outcome(arguments, key):
    """Load a configuration within a second; a refusal is short and names the key."""
    began = time.perf_counter()
    try:
        load(arguments)
    except ConfigError as error:
        message = str(error)
        section, _, leaf = key.rpartition(".")
        named = (leaf, section or leaf, key.partition(".")[0])
        assert any(name in message for name in named), (arguments[-2:], message)
        assert len(message) < 1200, message
        return "refused by key"
    finally:
        assert time.perf_counter() - began < 1, arguments
    return "accepted"


@pytest.mark.sweep(16)
@pytest.mark.parametrize("key", KEYS)
def test_a_hostile_value_of_a_key(key, tmp_path, count, monkeypatch):
    monkeypatch.chdir(tmp_path)
    student = [] if key.startswith("student") else ["--student.path", "s"]
    rest = ["--target.name", "sft", *student]
    if key == "target.name":
        rest = student
    for text in TEXTS:
        arguments = [*rest, f"--{key}={text}"]
        count("settings on the command line", _outcome(arguments, key))
    path = tmp_path / "c.yaml"
    for value in VALUES:
        tree = value
        for name in reversed(key.split(".")):
            tree = {name: tree}
        path.write_text(yaml.safe_dump(tree, allow_unicode=True))
        arguments = ["--config", str(path), *rest]
        count("settings in a file", _outcome(arguments, key))


FAMILY_KEYS = [(family, key) for family in FAMILIES for key in (*CONFIG, "model_type")]


@pytest.mark.sweep(16)
@pytest.mark.parametrize("family, key", FAMILY_KEYS)
def test_a_hostile_value_of_config_json(family, key, tmp_path, count):
    path = tmp_path / "config.json"
    for value in (*VALUES, 10**12, 2.0, ["x"] * 20_000, {"rope_type": []}):
        path.write_text(json.dumps({"model_type": family, **SIZES, key: value}))
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                checkpoint_tensors(load_config(tmp_path))
        except ValueError as error:
            message = str(error)
            assert message.startswith(str(path)) and key in message, message
            assert len(message) < 1200
            count("config.json", "refused by file and key")
        else:
            count("config.json", "accepted")
        assert time.perf_counter() - began < 1, (key, value)
