"""open_model resolves every kind of path; shared_tokenizer compares tokenizers."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import rig

from targetsft_jax.checkpoints.layered_params import save_params
from targetsft_jax.checkpoints.model_folder import AdapterInfo, write_model_folder
from targetsft_jax.checkpoints.open import open_model, shared_tokenizer
from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.hf import importer
from targetsft_jax.hf.importer import load_config
from targetsft_jax.hf.peft import save_adapter
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.storage.run_dir import RunDir


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
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError) as error:
        open_model(tmp_path / "empty")
    for part in ("config.json", "adapter_config.json", "checkpoints/", "notes.txt"):
        assert part in str(error.value)


ADAPTED = Lora(3, 6.0, ("q", "down"))


def adapters_of(config):
    return jax.device_get(rig.adapters_of(config, ADAPTED))


def merged_by_hand(params, adapters):
    """W + (alpha / r) · A·B in float64, rounded once."""
    layers = jax.tree.map(np.asarray, params["layers"])
    for group, name in (("attention", "q"), ("mlp", "down")):
        pair = adapters["layers"][group][name]
        product = pair["lora_a"].astype("f8") @ pair["lora_b"].astype("f8")
        kernel = layers[group][name]["kernel"].astype("f8") + 2.0 * product
        layers[group][name] = {"kernel": kernel.astype("f4")}
    return {**params, "layers": layers}


def test_an_adapter_folder_is_its_base_with_adapters(hf_folder, params, tmp_path):
    config = load_config(hf_folder)
    adapters = adapters_of(config)
    folder = tmp_path / "adapter"
    save_adapter(folder, config, adapters, ADAPTED, base=str(hf_folder))
    model = open_model(folder)
    assert (model.source, model.folder, model.config) == (folder, hf_folder, config)
    assert [base.source for base in model.bases] == [hf_folder]
    assert model.tokenizer_folder == hf_folder
    expected = merged_by_hand(params, adapters)
    loaded = model.load(make_mesh(2, 2, 2), "float32")
    rig.assert_equal_trees(loaded, expected)
    kernel = loaded["layers"]["mlp"]["down"]["kernel"]
    assert len(kernel.sharding.device_set) == 8
    assert not kernel.sharding.is_fully_replicated
    lazy = model.params("float32")["layers"]["attention"]["q"]["kernel"]
    q = expected["layers"]["attention"]["q"]["kernel"]
    np.testing.assert_array_equal(lazy[1], q[1])
    byte_tokenizer().save_pretrained(folder)
    assert open_model(folder).tokenizer_folder == folder


def test_a_run_that_trained_adapters_is_its_base_with_adapters(
    hf_folder, params, tmp_path
):
    config = load_config(hf_folder)
    adapters = adapters_of(config)
    run_dir = RunDir(tmp_path / "lora_run")
    save_params(run_dir, jax.tree.map(jnp.asarray, adapters))
    info = AdapterInfo(ADAPTED, str(hf_folder), "float32")
    write_model_folder(run_dir, hf_folder, "# Card", info)
    expected = merged_by_hand(params, adapters)
    for path in (run_dir.path, run_dir.checkpoints / "0"):
        model = open_model(path)
        assert model.source == run_dir.checkpoints / "0"
        assert model.tokenizer_folder == run_dir.model
        rig.assert_equal_trees(model.load(make_mesh(), "float32"), expected)


@pytest.mark.parametrize(
    "base, message", [("none/here/x", "does not exist"), (None, "itself")]
)
def test_the_base_of_an_adapter_must_exist(base, message, hf_folder, tmp_path):
    config, folder = load_config(hf_folder), tmp_path / "adapter"
    save_adapter(folder, config, adapters_of(config), ADAPTED, base=base or str(folder))
    with pytest.raises((FileNotFoundError, ValueError), match=message) as error:
        open_model(folder)
    assert "adapter_config.json" in str(error.value)


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
