"""Claim of a run directory: whose files are in it, and under which configuration."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from targetsft_jax.checkpoints.claim import claim, write_config
from targetsft_jax.config.load import load, to_yaml
from targetsft_jax.config.schema import ConfigError
from targetsft_jax.storage import lock
from targetsft_jax.storage.run_dir import RunDir


@pytest.fixture
def config(tmp_path):
    paths = ["--student.path", "a", "--teacher.path", "b"]
    return load([*paths, "--run_dir", str(tmp_path / "run")])


@pytest.fixture
def run_dir(config):
    return RunDir(Path(config.run_dir))


def _save(run_dir, step, config=None, position=None):
    """The files of a checkpoint that a claim reads."""
    folder = run_dir.checkpoints / str(step)
    items = {
        "position": {"step": step if position is None else position},
        "provenance": {} if config is None else {"config": asdict(config)},
    }
    for name, tree in items.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "metadata").write_text(json.dumps(tree))
    (folder / "params").mkdir()
    (folder / "params/_METADATA").touch()


def _content(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _refused(run_dir, config, message):
    """Check that a claim is refused and leaves every file as it was."""
    before = _content(run_dir.path) if run_dir.path.exists() else None
    with pytest.raises(ConfigError, match=message), claim(run_dir, config):
        raise AssertionError
    assert before == (_content(run_dir.path) if run_dir.path.exists() else None)


def test_a_new_directory_and_other_files_beside_a_run(run_dir, config):
    with claim(run_dir, config):
        assert run_dir.lock.exists()
    assert not run_dir.path.exists()
    run_dir.path.mkdir()
    (run_dir.path / "notes.txt").write_text("mine")
    with claim(run_dir, config):
        write_config(run_dir, config)
    assert sorted(p.name for p in run_dir.path.iterdir()) == [
        "config.yaml",
        "notes.txt",
    ]
    with claim(run_dir, config):
        pass


FOREIGN = [
    "config.yaml",
    "metrics.jsonl",
    "histograms.jsonl",
    "anomalies.jsonl",
    "goodput.json",
    "results.json",
    "wandb_id",
    "completions_start.jsonl",
    "hf/model.safetensors",
    "adapter/x",
    "model/config.json",
    "tensorboard/events",
    "profile/trace",
    "checkpoints/best/model.pt",
    "checkpoints_damaged/1/x",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_any_file_of_another_origin_is_left_alone(run_dir, config, name):
    path = run_dir.path / name
    path.parent.mkdir(parents=True)
    path.write_text("# my notes\nseed: 1\n")
    _refused(run_dir, config, f"has {name.partition('/')[0]}, and its config.yaml is")


def test_a_broken_link_is_a_file(run_dir, config):
    run_dir.path.mkdir()
    run_dir.metrics.symlink_to("/nowhere/metrics")
    _refused(run_dir, config, "has metrics.jsonl")


def test_a_printed_configuration_is_the_users(run_dir, config):
    """It has the text of a run's file, without the first line."""
    run_dir.path.mkdir()
    run_dir.config.write_text(to_yaml(config))
    _refused(run_dir, config, "has config.yaml")


def test_a_finished_run_without_checkpoints_is_not_replaced(run_dir, config):
    with claim(run_dir, config):
        write_config(run_dir, config)
        run_dir.export.mkdir()
    other = replace(config, seed=5)
    _refused(run_dir, other, r"\(config.yaml\).*\n  seed: was 0, is 5\n")
    _refused(
        run_dir, replace(config, resume=False), "config.yaml, hf and resume is fal"
    )
    with claim(run_dir, config):
        pass


def test_without_config_yaml_the_checkpoint_is_compared(run_dir, config):
    _save(run_dir, 2, config)
    _refused(
        run_dir, replace(config, seed=5), r"\(checkpoint 2\).*\n  seed: was 0, is 5"
    )
    with claim(run_dir, config):
        pass


def test_config_yaml_and_each_checkpoint_are_compared(run_dir, config):
    other = replace(config, seed=5)
    _save(run_dir, 2, config)
    _save(run_dir, 4, config)
    write_config(run_dir, config)
    with claim(run_dir, config):
        pass
    # A copy of another step says nothing about the run.
    _save(run_dir, 9, other, position=2)
    with claim(run_dir, config):
        pass
    write_config(run_dir, other)
    _refused(run_dir, config, r"\(config.yaml\)")
    _refused(run_dir, other, r"\(checkpoint 4\)")
    # A restore passes over damaged checkpoints, so that earlier ones count too.
    write_config(run_dir, config)
    _save(run_dir, 1, other)
    _refused(run_dir, config, r"\(checkpoint 1\)")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text + "\n\tx: [\n",
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("seed: 0", "seed: 1"),
        lambda text: "",
    ],
)
def test_a_damaged_configuration_costs_the_file_alone(run_dir, config, damage, capsys):
    _save(run_dir, 2, config)
    write_config(run_dir, config)
    text = damage(run_dir.config.read_text())
    run_dir.config.write_text(text)
    _refused(run_dir, replace(config, seed=1), r"\(checkpoint 2\)")
    with claim(run_dir, config):
        write_config(run_dir, config)
    assert (run_dir.path / "config.yaml.damaged").read_text() == text
    assert "config.yaml is damaged or was edited; moved to" in capsys.readouterr().out
    with claim(run_dir, config):
        pass


def test_a_run_of_an_earlier_version_resumes(run_dir, config):
    """Its config.yaml is unsigned, and its checkpoints have no configuration."""
    _save(run_dir, 2)
    run_dir.config.write_text(to_yaml(config))
    _refused(run_dir, replace(config, seed=5), r"\(config.yaml\)")
    with claim(run_dir, config):
        pass
    run_dir.config.write_text("# edited\n" + to_yaml(config))
    _refused(run_dir, config, "checkpoint 2 and no configuration to compare")


def test_an_imported_model_is_not_a_run(run_dir, config):
    _save(run_dir, 0)
    _refused(run_dir, config, "as student.path, the directory starts a new run")


def test_a_directory_in_a_folder_of_another_run(run_dir, config, tmp_path):
    with claim(run_dir, config):
        write_config(run_dir, config)
    for inner in ("hf", "checkpoints/7", "model/x"):
        _refused(RunDir(run_dir.path / inner), config, "which belongs to the run")
    with claim(RunDir(run_dir.path / "second"), config):
        pass
    (tmp_path / "link").symlink_to(run_dir.path)
    _refused(RunDir(tmp_path / "link/hf/x"), config, "which belongs to the run")


def test_one_owner_at_a_time(run_dir, config):
    with claim(run_dir, config):
        _refused(run_dir, config, r"run_dir: .*run is in use by process \d+ on")


def test_a_path_that_is_a_file_and_one_that_orbax_expands(tmp_path, config):
    (tmp_path / "file").touch()
    for path in ("file", "file/run"):
        with (
            pytest.raises(OSError, match="file"),
            claim(RunDir(tmp_path / path), config),
        ):
            raise AssertionError
    _refused(RunDir(tmp_path / "lr[1e-3]"), config, r"has \[, and checkpoints in it")


def test_a_file_system_without_locks_is_reported(run_dir, config, monkeypatch, capsys):
    monkeypatch.setattr(lock, "_acquire", lambda path: None)
    with claim(run_dir, config):
        pass
    assert "without locks: do not start a second run" in capsys.readouterr().out
