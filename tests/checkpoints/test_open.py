"""open_model resolves every kind of path; shared_tokenizer compares tokenizers."""

import json
import shutil

import numpy as np
import pytest
from support import rig

from targetsft_jax.checkpoints.open import open_model, shared_tokenizer
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf import importer
from targetsft_jax.hf.importer import load_config
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.parallel.mesh import make_mesh


@pytest.mark.parametrize("kind", ["folder", "run", "checkpoint"])
def test_every_path_opens_the_same_model(kind, hf_folder, params, run_dir):
    paths = {
        "folder": (hf_folder, hf_folder, hf_folder),
        "run": (run_dir.path, run_dir.model, run_dir.checkpoints / "0"),
        "checkpoint": (
            run_dir.checkpoints / "0",
            run_dir.model,
            run_dir.checkpoints / "0",
        ),
    }
    path, folder, source = paths[kind]
    model = open_model(str(path))
    assert (model.path, model.folder, model.source) == (str(path), folder, source)
    assert model.config == load_config(hf_folder)
    assert (model.checkpoint is None) == (kind == "folder")
    assert model.tokenizer().get_vocab() == byte_tokenizer().get_vocab()
    loaded = model.load(make_mesh(2, 2, 2), "float32")
    rig.assert_equal_trees(loaded, params)
    assert len(loaded["embed"].sharding.device_set) == 8
    narrow = model.load(make_mesh(2, 2, 2), "bfloat16")
    np.testing.assert_array_equal(narrow["embed"], params["embed"].astype("bfloat16"))
    lazy = model.params()
    kernel = lazy["layers"]["attention"]["q"]["kernel"]
    assert isinstance(kernel, LayerLeaf) and kernel.shape[0] == 2
    for layer in range(2):
        expected = params["layers"]["attention"]["q"]["kernel"][layer]
        np.testing.assert_array_equal(kernel[layer].astype(np.float32), expected)
    np.testing.assert_array_equal(
        np.asarray(lazy["embed"], np.float32), params["embed"]
    )


def test_the_newest_checkpoint_of_a_run_is_opened(run_dir):
    shutil.copytree(run_dir.checkpoints / "0", run_dir.checkpoints / "12")
    shutil.copytree(run_dir.checkpoints / "0", run_dir.checkpoints / "9")
    assert open_model(run_dir.path).source == run_dir.checkpoints / "12"


def test_a_hub_id_is_resolved_without_weights(hf_folder, monkeypatch):
    """No weights are downloaded for a tokenizer or a plan."""
    requests = []

    def download(name, allow_patterns):
        requests.append((name, "*.safetensors" in allow_patterns))
        return str(hf_folder)

    monkeypatch.setattr(importer.huggingface_hub, "snapshot_download", download)
    for weights in (True, False):
        model = open_model("some/model", weights=weights)
        assert (model.path, model.folder) == ("some/model", hf_folder)
    assert requests == [("some/model", True), ("some/model", False)]


def test_a_path_that_names_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        open_model(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="config.json does not exist"):
        open_model(tmp_path / "empty")


def test_a_run_that_trained_adapters_is_not_a_model(run_dir):
    """Its checkpoints hold adapters alone, so that loading would fail much later."""
    run_dir.adapters.write_text("{}")
    for path in (run_dir.path, run_dir.checkpoints / "0"):
        with pytest.raises(ValueError, match="holds adapters.*run/hf.*to-hf"):
            open_model(path)


def test_a_shared_tokenizer(hf_folder, run_dir, tmp_path):
    models = {"student": open_model(hf_folder), "teacher": open_model(run_dir.path)}
    # The folder's embedding has 40 rows, its tokenizer 264 tokens.
    with pytest.raises(ValueError, match="has 264 tokens, but the student .* only 40"):
        shared_tokenizer(models)
    for folder in (hf_folder, run_dir.model):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 264}))
    models = {"student": open_model(hf_folder), "teacher": open_model(run_dir.path)}
    assert shared_tokenizer(models).get_vocab() == byte_tokenizer().get_vocab()
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    other.save_pretrained(run_dir.model)
    with pytest.raises(ValueError, match="the student .* and the teacher .* differ"):
        shared_tokenizer(models)
