"""Paths and steps that locate a checkpoint, and refusals of others."""

import shutil

import numpy as np
import pytest

from targetsft_jax.checkpoints.commit import checkpoint_steps
from targetsft_jax.checkpoints.reader import (
    StoredCheckpoint,
    find_checkpoint,
    is_run_path,
)
from targetsft_jax.storage.run_dir import RunDir


@pytest.fixture
def steps(tmp_path):
    """A run directory with the complete checkpoints 2, 9 and 10, and others."""
    run_dir = RunDir(tmp_path / "run")
    others = ("11.orbax-checkpoint-tmp-0", "notes", "0013", "١٤", "-15", "9" * 30)
    for name in ("2", "9", "10", *others):
        folder = run_dir.checkpoints / name / "params"
        folder.mkdir(parents=True)
        (folder / "_METADATA").write_text("{}")
    (run_dir.checkpoints / "12/params").mkdir(parents=True)
    return run_dir


def test_complete_checkpoints_in_numerical_order(steps, tmp_path):
    assert checkpoint_steps(steps) == [2, 9, 10]
    assert checkpoint_steps(RunDir(tmp_path)) == []
    assert checkpoint_steps(RunDir(tmp_path / "none")) == []


def test_a_run_directory_names_its_newest_or_the_requested_step(steps):
    assert find_checkpoint(steps.path) == StoredCheckpoint(steps, 10)
    assert find_checkpoint(str(steps.path), 9).folder == steps.checkpoints / "9"
    assert find_checkpoint(steps.checkpoints / "2").step == 2


def test_relative_paths(steps, monkeypatch):
    monkeypatch.chdir(steps.checkpoints)
    assert find_checkpoint("2") == StoredCheckpoint(steps, 2)
    monkeypatch.chdir(steps.path)
    assert find_checkpoint(".").step == 10
    assert find_checkpoint("checkpoints/9").step == 9


@pytest.mark.parametrize(
    "path, step, error, message",
    [
        ("run", 5, FileNotFoundError, "no complete checkpoint 5; it has 2, 9, 10"),
        ("run/checkpoints/12", None, FileNotFoundError, "no complete checkpoint 12"),
        ("run/checkpoints/2", 9, ValueError, "--step 9 names another"),
        ("none", None, FileNotFoundError, "found: no such folder"),
        ("empty", None, FileNotFoundError, "found: nothing.*RUN/checkpoints/STEP"),
    ],
)
def test_refusals(steps, tmp_path, path, step, error, message):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=message):
        find_checkpoint(tmp_path / path, step)


def test_run_paths_are_not_hugging_face_folders(steps, tmp_path):
    assert is_run_path(steps.path) and is_run_path(steps.checkpoints / "2")
    assert not is_run_path(tmp_path) and not is_run_path(tmp_path / "none")
    shutil.copytree(steps.path, tmp_path / "both")
    (tmp_path / "both/config.json").touch()
    assert not is_run_path(tmp_path / "both")


def test_params_that_cannot_be_read(steps):
    with pytest.raises(ValueError, match="10/params cannot be read.*another check"):
        find_checkpoint(steps.path).params()


def test_checksums_that_are_no_mapping(steps):
    stored = StoredCheckpoint(steps, 9)
    (stored.folder / "position").mkdir()
    (stored.folder / "position/metadata").write_text('{"step": 9, "arrays": [1]}')
    with pytest.raises(ValueError, match="position: arrays is list"):
        stored.verify({})


@pytest.mark.parametrize(
    "position, provenance, message",
    [
        ("{}", "{}", "position is missing or damaged"),
        ("[1]", "{}", "position/metadata is list"),
        ('{"step": 9, "provenance": "0"}', "{}", "provenance is damaged, or that of"),
        ('{"step": 9}', "[" * 99_999, "provenance/metadata cannot be read"),
    ],
)
def test_a_trained_checkpoint_needs_its_json(steps, position, provenance, message):
    folder = steps.checkpoints / "9"
    for name, text in {"position": position, "provenance": provenance}.items():
        (folder / name).mkdir()
        (folder / name / "metadata").write_text(text)
    (folder / "optimizer").mkdir()
    with pytest.raises(ValueError, match=message):
        find_checkpoint(folder)


@pytest.mark.parametrize("text", ["{}", "[1]", '{"tree_metadata": [1]}', "[" * 99_999])
def test_metadata_that_is_damaged(steps, text):
    stored = StoredCheckpoint(steps, 9)
    (stored.folder / "params/_METADATA").write_text(text)
    for read in (stored.params, lambda: stored.load({"a": np.zeros(1)})):
        with pytest.raises(ValueError, match="9/params cannot be read"):
            read()
