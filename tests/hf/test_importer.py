"""Import of checkpoints slice by slice, and refusals before anything is read."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import hf_folders as checkpoints

from targetsft_jax.hf import importer
from targetsft_jax.hf.importer import load_config, load_params, resolve


def load(folder, **options):
    return load_params(folder, load_config(folder), **options)


def test_values_are_read_into_their_parameters(tmp_path):
    content = checkpoints.tensors(tied=False, dtype=np.float32)
    folder = checkpoints.write(tmp_path / "m", content, tied=False)
    params = load(folder)
    layer = params["layers"]
    pairs = {
        "model.embed_tokens.weight": params["embed"],
        "lm_head.weight": params["head"],
        "model.norm.weight": params["final_norm"],
        "model.layers.1.input_layernorm.weight": layer["input_norm"][1],
        "model.layers.1.self_attn.k_proj.weight": layer["attention"]["k"]["kernel"][
            1
        ].T,
        "model.layers.0.self_attn.v_proj.bias": layer["attention"]["v"]["bias"][0],
        "model.layers.0.mlp.down_proj.weight": layer["mlp"]["down"]["kernel"][0].T,
    }
    for key, ours in pairs.items():
        np.testing.assert_array_equal(ours, content[key], err_msg=key)


def test_one_sharding_for_all_and_cast(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(dtype=np.float32))
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = load(folder, dtype=jnp.bfloat16, shardings=everywhere)
    exact = load(folder)
    for ours, wide in zip(jax.tree.leaves(params), jax.tree.leaves(exact)):
        assert ours.sharding == everywhere
        np.testing.assert_array_equal(ours, wide.astype(jnp.bfloat16))


def test_all_problems_in_one_message(tmp_path):
    content = checkpoints.tensors()
    del content["model.layers.1.mlp.up_proj.weight"]
    content["model.norm.weight"] = content["model.norm.weight"][:7]
    content["model.layers.0.self_attn.q_norm.weight"] = np.ones(4, np.float32)
    content["model.layers.0.mlp.up_proj.weight"] = np.ones((24, 16), np.int8)
    content["model.layers.7.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    content["lm_head.weight"] = content["model.embed_tokens.weight"].copy()
    folder = checkpoints.write(tmp_path / "m", content)
    with pytest.raises(ValueError) as error:
        load(folder)
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert "4 problems" in lines[0] and str(folder) in lines[0]
    assert sorted(lines[1:]) == [
        "dtype: model.layers.0.mlp.up_proj.weight is I8, "
        "expected one of F64, F32, F16, BF16",
        "mis-shaped: model.norm.weight is (7,), expected (16,)",
        "missing: model.layers.1.mlp.up_proj.weight",
        "unexpected: model.layers.0.self_attn.q_norm.weight (4,)",
    ]


def test_tied_model_ignores_its_copy_of_the_head(tmp_path):
    content = checkpoints.tensors()
    content["lm_head.weight"] = content["model.embed_tokens.weight"].copy()
    assert "head" not in load(checkpoints.write(tmp_path / "m", content))
    del content["lm_head.weight"]
    untied = checkpoints.write(tmp_path / "u", content, tied=False)
    with pytest.raises(ValueError, match="missing: lm_head.weight"):
        load(untied)


def test_resolve(tmp_path, monkeypatch):
    assert resolve(tmp_path) == tmp_path and resolve(str(tmp_path)) == tmp_path
    for absent in (tmp_path / "no", str(tmp_path / "no"), "./no", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="does not exist.*model folder"):
            resolve(absent)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        resolve(tmp_path / "file")
    requested = {}

    def download(name, allow_patterns):
        requested[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(importer.huggingface_hub, "snapshot_download", download)
    assert resolve("owner/model") == tmp_path
    assert not any(
        "bin" in pattern or ".py" in pattern for pattern in requested["owner/model"]
    )


def test_unreachable_hub_id_is_one_quick_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        resolve("nobody/no-such-model")
    assert time.perf_counter() - start < 5
    message = str(error.value)
    assert "\n" not in message and error.value.__suppress_context__
    assert "nobody/no-such-model is neither a local folder nor a model" in message
    assert "hf download nobody/no-such-model" in message


def test_the_problems_of_a_wrong_config_are_counted_but_not_all_listed(tmp_path):
    folder = checkpoints.write(tmp_path / "model", checkpoints.tensors())
    path = folder / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 900})
    )
    with pytest.raises(
        ValueError, match=r"\(\d{4,5} problems\)(.|\n)*and \d+ more$"
    ) as e:
        load_params(folder, load_config(folder))
    assert len(str(e.value)) < 5000
