"""Existing folders that an export may replace, and those that it must not."""

import jax.numpy as jnp
import pytest
from support import hf_folders as checkpoints

from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params


@pytest.fixture
def tiny(tmp_path):
    folder = checkpoints.write(tmp_path / "theirs", checkpoints.tensors())
    config = load_config(folder)
    return config, load_params(folder, config, dtype=jnp.bfloat16)


def test_other_folders_are_not_replaced(tmp_path, tiny):
    config, params = tiny
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").write_text("years of work")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    (tmp_path / "file").touch()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").touch()
    for name in ("notes", "run", "file", "weights"):
        with pytest.raises(FileExistsError, match=name):
            save_pretrained(tmp_path / name, config, params)
    assert (tmp_path / "notes" / "thesis.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    save_pretrained(tmp_path / "empty", config, params)
    assert load_config(tmp_path / "empty") == config


def test_other_files_in_an_export_are_not_deleted(tmp_path, tiny):
    config, params = tiny
    target = tmp_path / "out"
    save_pretrained(target, config, params, max_shard_bytes=1500)
    save_pretrained(target, config, params)  # shards of an earlier export are replaced
    for number in range(6):
        (target / f"notes_{number}.md").write_text("seen in run 7")
    (target / "plots").mkdir()
    before = sorted(path.name for path in target.iterdir())
    with pytest.raises(FileExistsError, match=r"out exists.*notes_0.md.*and 2 more"):
        save_pretrained(target, config, params)
    assert sorted(path.name for path in target.iterdir()) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "theirs"]
    for path in target.glob("notes*"):
        path.unlink()
    with pytest.raises(FileExistsError, match="plots/. Move"):
        save_pretrained(target, config, params)
    (target / "plots").rmdir()
    save_pretrained(target, config, params)
