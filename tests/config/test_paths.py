"""Folders of a run: refused where they are unusable or lie over a model or data."""

import os
from pathlib import Path

import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.schema import ConfigError

MINIMAL = ["--target.name", "sft"]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    """A folder with models and data as the current one, and another as home."""
    for name in ("here/model", "here/run/hf", "here/run/checkpoints", "home"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("file", "run/completions_sft.jsonl", "run/other.jsonl"):
        (tmp_path / "here" / name).write_text("x")
    (tmp_path / "here" / "broken").symlink_to("absent")
    (tmp_path / "here" / "link").symlink_to("model")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def _load(**changes):
    changes = {"student.path": "s"} | changes
    arguments = [f"--{key}={value}" for key, value in changes.items()]
    return load([*MINIMAL, *arguments])


@pytest.mark.parametrize("key", ["run_dir", "cache_dir"])
@pytest.mark.parametrize(
    "value, message",
    [
        ("", "''; expected a text"),
        ("  ", "'  '; expected a text"),
        ("null", "None; expected a text"),
        ("a\nb", "on one line"),
        ("a\0b", "on one line"),
        ("\udc80", "in UTF-8"),
        ("y" * 5000, "of at most 4096 characters"),
        ("y" * 256, "names of at most 255 bytes"),
        (".", "the current folder"),
        ("model/..", "the current folder"),
        ("..", "a folder above the current"),
        ("/", "a folder above"),
        ("~", "None; expected a text"),
        ("~/", "the home folder"),
        ("~no_such_user/x", "~no_such_user has no home"),
        ("file", "file is a file; expected a folder"),
        ("file/run", "file is a file; expected a folder"),
        ("broken", "broken is a link to nothing"),
        ("broken/x", "broken is a link to nothing"),
    ],
)
def test_an_unusable_folder(key, value, message):
    with pytest.raises(ConfigError, match=f"^{key} is .*{message}"):
        _load(**{key: value})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"run_dir": "x", "cache_dir": "x"}, "cache_dir is 'x', which is run_dir"),
        ({"run_dir": "x/../y", "cache_dir": "y"}, "cache_dir is 'y', which is run_dir"),
        ({"run_dir": "run", "cache_dir": "run/hf"}, "would write to cache_dir"),
        ({"run_dir": "c/data", "cache_dir": "c"}, "a folder of cache_dir"),
        ({"run_dir": "c/student-1", "cache_dir": "c"}, "a folder of cache_dir"),
        ({"run_dir": "model", "student.path": "model"}, "write to student.path"),
        ({"run_dir": "link", "student.path": "model"}, "write to student.path"),
        (
            {"run_dir": "model/run", "student.path": "link"},
            "inside the folder of student",
        ),
        ({"run_dir": "run", "student.path": "run/hf"}, "would write to student.path"),
        ({"run_dir": "run", "teacher.path": "run"}, "would write to teacher.path"),
        (
            {
                "run_dir": "run",
                "data.source": "jsonl",
                "data.path": "run/completions_sft.jsonl",
            },
            "would write to data.path",
        ),
        (
            {"run_dir": "model", "data.source": "hf_dataset", "data.path": "model"},
            "would write to data.path",
        ),
    ],
    ids=str,
)
def test_a_run_never_writes_over_what_it_reads(changes, message):
    with pytest.raises(ConfigError, match=message):
        _load(**changes)


def test_usual_folders_are_accepted():
    assert _load(run_dir="runs/ü [1] *", cache_dir="cache")
    assert _load(run_dir="cache/x", cache_dir="cache")
    assert _load(run_dir="new", **{"student.path": "run"})
    other = {"data.source": "jsonl", "data.path": "run/other.jsonl"}
    assert _load(run_dir="run", **other)
    os.chdir("run")
    assert _load(run_dir=".") and Path("checkpoints").is_dir()
