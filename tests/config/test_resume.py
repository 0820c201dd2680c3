"""Keys that a resumed run may and may not change."""

import dataclasses

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.resume import changed_keys

MINIMAL = ["--student.path", "s", "--target.name", "sft"]


def _tree(*overrides: str) -> dict:
    return dataclasses.asdict(load([*MINIMAL, *overrides]))


def test_the_same_configuration_has_no_changes():
    assert changed_keys(_tree(), load(MINIMAL)) == []


@pytest.mark.parametrize(
    "overrides, line",
    [
        (["--train.steps", "9"], "train.steps: was None, is 9"),
        (["--seed", "9"], "seed: was 0, is 9"),
        (["--target.name", "dft"], "target.name: was 'sft', is 'dft'"),
        (["--lora.rank", "2"], "lora.rank: was None, is 2"),
        (["--data.max_length", "64"], "data.max_length: was 1024, is 64"),
    ],
)
def test_a_changed_key_is_listed_with_both_values(overrides, line):
    assert line in changed_keys(_tree(), load([*MINIMAL, *overrides]))


@pytest.mark.parametrize(
    "overrides",
    [
        ["--run_dir", "elsewhere"],
        ["--mesh.cpu_devices", "2", "--mesh.fsdp", "2"],
        ["--evaluation.samples", "4"],
        ["--validation.every", "7"],
        ["--data.cache", "false"],
        ["--train.remat", "full", "--train.attention", "xla"],
        ["--train.max_to_keep", "5", "--train.keep_best", "nll"],
        ["--log.profile_from", "3"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_resumable_keys_may_change(overrides):
    assert changed_keys(_tree(), load([*MINIMAL, *overrides])) == []


def test_a_key_added_later_has_its_default():
    """A run of a version without the key resumes, unless the key is set."""
    before = _tree()
    del before["train"]["clip_norm"]
    assert changed_keys(before, load(MINIMAL)) == []
    changed = changed_keys(before, load([*MINIMAL, "--train.clip_norm", "2"]))
    assert changed == ["train.clip_norm: was 1.0, is 2.0"]


def test_renamed_keys_are_compared_under_their_new_names():
    before = _tree("--train.accumulation_steps", "2")
    before["train"]["micro_batches"] = before["train"].pop("accumulation_steps")
    before["compare"] = ["dft"]
    before["data"]["embedded"] = before["data"].pop("synthetic")
    before["data"]["source"] = "embedded"
    config = load([*MINIMAL, "--train.accumulation_steps", "2"])
    assert changed_keys(before, config) == []
