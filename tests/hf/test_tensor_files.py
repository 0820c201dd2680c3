"""Safetensors files and their index: links, damage, and names that are refused."""

import json

import numpy as np
import pytest
from support import hf_folders as checkpoints

from targetsft_jax.hf.importer import load_config, load_params


def load(folder, **options):
    return load_params(folder, load_config(folder), **options)


def test_links_of_a_hub_snapshot_are_followed(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=2)
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(folder.iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    load(snapshot)


def test_truncated_file_is_named(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors())
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is damaged or incomplete"):
        load(folder)


def test_every_damaged_file_is_named(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=3)
    first, second, third = sorted(folder.glob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-1])
    third.write_bytes(b"\xff" * 20)
    with pytest.raises(ValueError) as error:
        load(folder)
    assert all(path.name in str(error.value) for path in (first, third))
    assert second.name not in str(error.value)


def test_missing_shards_are_named(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=3)
    (folder / "model-00001-of-00003.safetensors").unlink()
    (folder / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="-00001-.*-00003-.*download"):
        load(folder)


def test_a_tensor_missing_from_the_index_is_reported(tmp_path):
    content = checkpoints.tensors()
    content["extra.weight"] = np.ones(3, np.float32)
    folder = checkpoints.write(tmp_path / "m", content, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    del index["weight_map"]["extra.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="unexpected: extra.weight"):
        load(folder)


@pytest.mark.parametrize("name", ["../m2/model.safetensors", "/etc/x.safetensors"])
def test_index_may_not_leave_the_folder(tmp_path, name):
    checkpoints.write(tmp_path / "m2", checkpoints.tensors())
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    index["weight_map"]["lm_head.weight"] = "pytorch_model.bin"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model.norm.weight points to.*outside") as all:
        load(folder)
    assert "lm_head.weight points to 'pytorch_model.bin', not a saf" in str(all.value)


def test_pickle_is_refused(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin.*can run code"):
        load(folder)


def test_the_files_of_a_folder_without_weights_are_named(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors())
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="neither.*found: config.json"):
        load(folder)
