"""Checkpoints are read slice by slice, and refused whole when anything is wrong."""

import json
import time

import checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from targetsft_jax.hf import importer
from targetsft_jax.hf.importer import load_config, load_params, resolve
from targetsft_jax.models.decoder import logical_axes


def load(folder, **options):
    return load_params(folder, load_config(folder), **options)


def test_values_land_where_their_names_say(tmp_path):
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


@pytest.mark.parametrize("shards", [1, 3])
def test_sharded_reading_equals_whole_reading(tmp_path, shards, monkeypatch):
    content = checkpoints.tensors()
    folder = checkpoints.write(tmp_path / "m", content, shards=shards)
    whole = load(folder, dtype=jnp.float32)
    sizes = []
    read_slice = importer._read_slice

    def spy(sources, bounds, dtype):
        part = read_slice(sources, bounds, dtype)
        sizes.append(part.size)
        return part

    monkeypatch.setattr(importer, "_read_slice", spy)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    where = {"embed": "a", "vocab": "b", "heads": "b", "kv_heads": "b", "mlp": "b"}
    where |= {"layers": None, "table": "a"}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*map(where.get, names))),
        logical_axes(load_config(folder)),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    split = load(folder, dtype=jnp.float32, shardings=shardings)
    for a, b, want in zip(*map(jax.tree.leaves, (whole, split, shardings))):
        np.testing.assert_array_equal(a, b)
        assert b.sharding == want
    # Each slice once: together they are the model, though some lie on many devices.
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(whole))
    assert max(sizes) <= max(leaf.size for leaf in jax.tree.leaves(whole)) // 8


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


def test_truncated_file_is_named(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors())
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="model.safetensors is damaged or incomplete"):
        load(folder)


def test_missing_shard_is_named(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model-00002-of-00002.*download"):
        load(folder)


@pytest.mark.parametrize("name", ["../m2/model.safetensors", "/etc/x.safetensors"])
def test_index_may_not_leave_the_folder(tmp_path, name):
    checkpoints.write(tmp_path / "m2", checkpoints.tensors())
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = name
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="model.norm.weight points to.*outside"):
        load(folder)


def test_pickle_is_refused(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors())
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin.*can run code"):
        load(folder)


def test_empty_folder_says_what_it_holds(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors())
    (folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="neither.*found: config.json"):
        load(folder)


def test_resolve(tmp_path, monkeypatch):
    assert resolve(tmp_path) == tmp_path and resolve(str(tmp_path)) == tmp_path
    for absent in (tmp_path / "no", str(tmp_path / "no"), "./no", "a/b/c"):
        with pytest.raises(FileNotFoundError, match="does not exist.*model folder"):
            resolve(absent)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file"):
        resolve(tmp_path / "file")
    asked = {}

    def download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(tmp_path)

    monkeypatch.setattr(importer.huggingface_hub, "snapshot_download", download)
    assert resolve("owner/model") == tmp_path
    assert not any(
        "bin" in pattern or ".py" in pattern for pattern in asked["owner/model"]
    )


def test_unreachable_hub_id_is_one_quick_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(FileNotFoundError) as error:
        resolve("nobody/no-such-model")
    assert time.perf_counter() - start < 5
    message = str(error.value)
    assert "\n" not in message and error.value.__suppress_context__
    assert "nobody/no-such-model is neither a folder here nor a model" in message
    assert "hf download nobody/no-such-model" in message
