"""Keys that a resumed run may and may not change."""

import dataclasses
import shlex

import pytest

from targetsft_jax.config.load import load, parse, to_yaml
from targetsft_jax.config.resume import changed_keys, continuation
from targetsft_jax.storage.run_dir import RunDir

MINIMAL = ["--student.path", "s", "--target.name", "sft"]


def _tree(*overrides: str) -> dict:
    return dataclasses.asdict(load([*MINIMAL, *overrides]))


def test_the_same_configuration_has_no_changes():
    assert changed_keys(_tree(), load(MINIMAL)) == []


@pytest.mark.parametrize(
    "overrides, line",
    [
        (["--train.batch_size", "9"], "train.batch_size: was 32, is 9"),
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
        ["--train.steps", "9"],
        ["--train.epochs", "2"],
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


BUILT = ["--student.build", "{steps: 3}", "--target.name", "sft"]


@pytest.mark.parametrize(
    "start, more",
    [
        (MINIMAL, ["--train.learning_rate", "1e-3"]),
        (MINIMAL, ["--train.learning_rate", "1e-3", "--train.save_every", "7"]),
        (MINIMAL, ["--data.synthetic.kinds", "{dosing: 1, addition: 2}"]),
        (MINIMAL, ["--train.clip_norm", "0", "--data.fields.prompt", "a b\\n{c}"]),
        ([*MINIMAL[:2], "--target.name", "eaft", "--target.top_k", "5"], MINIMAL),
        (BUILT, ["--seed", "3"]),
    ],
    ids=lambda arguments: arguments[-1],
)
def test_the_printed_command_continues_with_the_changes(start, more, tmp_path):
    run_dir = RunDir(tmp_path / "my run")
    run_dir.path.mkdir()
    before = load([*start, "--run_dir", str(run_dir.path)])
    run_dir.config.write_text(to_yaml(before))
    unchanged = [] if more is MINIMAL else start
    after = load([*unchanged, *more, "--run_dir", str(run_dir.path)])
    (tmp_path / "my run-2").mkdir()
    tree = dataclasses.asdict(before)
    text, command = continuation(tree, after, run_dir, has_checkpoint=True).split("\n")
    assert "train on from its newest checkpoint" in text
    program, name, *arguments = shlex.split(command)
    assert (program, name) == ("targetsft", "train")
    config = parse(arguments)
    student = dataclasses.replace(after.student, path=str(run_dir.path), build=None)
    path = str(tmp_path / "my run-3")
    assert config == dataclasses.replace(after, student=student, run_dir=path)


@pytest.mark.parametrize(
    "start, more",
    [
        (MINIMAL, ["--student.path", "other"]),
        (MINIMAL, ["--lora.rank", "4"]),
        ([*MINIMAL, "--lora.rank", "4"], ["--lora", "null"]),
    ],
    ids=lambda arguments: arguments[-1],
)
def test_another_student_starts_in_another_folder(start, more, tmp_path):
    run_dir = RunDir(tmp_path)
    before = load([*start, "--run_dir", str(tmp_path)])
    run_dir.config.write_text(to_yaml(before))
    after = load([*start, *more, "--run_dir", str(tmp_path)])
    tree = dataclasses.asdict(before)
    text, command = continuation(tree, after, run_dir, has_checkpoint=True).split("\n")
    assert "start in another run_dir" in text
    config = parse(shlex.split(command)[2:])
    assert config == dataclasses.replace(after, run_dir=f"{tmp_path}-2")


def test_without_a_readable_file_the_arguments_are_named(tmp_path):
    run_dir = RunDir(tmp_path)
    before = load([*MINIMAL, "--run_dir", str(tmp_path)])
    after = dataclasses.replace(before, seed=3)
    text = continuation(dataclasses.asdict(before), after, run_dir, has_checkpoint=True)
    assert text.endswith(
        f"add --student.path {tmp_path} --run_dir {tmp_path}-2 to your command"
    )
