"""Import of checkpoints slice by slice, and refusals before anything is read."""

import json
import time
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import hf_folders as checkpoints

from targetsft_jax.hf import importer, shard_reader
from targetsft_jax.hf.importer import load_config, load_params, resolve
from targetsft_jax.models.decoder import abstract_params, logical_axes


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


def as_on_accelerators(patch):
    """Write every parameter into arrays that are on the devices already."""
    patch.setattr(shard_reader, "_HostShard", shard_reader._DeviceShard)


@pytest.mark.parametrize("staged", [True, False], ids=["staged", "placed"])
@pytest.mark.parametrize("shards", [1, 3])
def test_sharded_equals_unsharded_reading(tmp_path, shards, staged, monkeypatch):
    content = checkpoints.tensors()
    folder = checkpoints.write(tmp_path / "m", content, shards=shards)
    unsharded = load(folder, dtype=jnp.float32)
    sizes = []
    read = shard_reader._Piece.read

    def spy(piece):
        done = read(piece)
        sizes.append(piece.values.size)
        return done

    monkeypatch.setattr(shard_reader._Piece, "read", spy)
    if not staged:
        as_on_accelerators(monkeypatch)
    mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    where = {"embed": "a", "vocab": "b", "heads": "b", "kv_heads": "b", "mlp": "b"}
    where |= {"layers": None, "table": "a"}
    shardings = jax.tree.map(
        lambda names: NamedSharding(mesh, PartitionSpec(*map(where.get, names))),
        logical_axes(load_config(folder)),
        is_leaf=lambda x: isinstance(x, tuple),
    )
    split = load(folder, dtype=jnp.float32, shardings=shardings)
    for a, b, want in zip(*map(jax.tree.leaves, (unsharded, split, shardings))):
        np.testing.assert_array_equal(a, b)
        assert b.sharding == want
    # Each slice is read once, even if it is on several devices.
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(unsharded))
    assert max(sizes) <= max(leaf.size for leaf in jax.tree.leaves(unsharded)) // 8


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_parameters_go_to_the_devices_in_pieces(tmp_path, dtype, monkeypatch):
    """As if every tensor were larger than a piece, down to single rows."""
    content = checkpoints.tensors(dtype=np.float32)
    folder = checkpoints.write(tmp_path / "m", content)
    mesh = jax.make_mesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    some = NamedSharding(mesh, PartitionSpec("b"))  # the layers, where they divide
    for sharding in (one, some):
        unsharded = load(folder, dtype=dtype, shardings=sharding)
        with monkeypatch.context() as patch:
            as_on_accelerators(patch)
            patch.setattr(shard_reader, "PIECE_BYTES", 3 * 16 * 4)
            pieces = load(folder, dtype=dtype, shardings=sharding)
        for a, b in zip(
            jax.tree.leaves(unsharded), jax.tree.leaves(pieces), strict=True
        ):
            assert b.sharding == sharding and b.dtype == dtype
            np.testing.assert_array_equal(a, b)
    kernel = unsharded["layers"]["mlp"]["down"]["kernel"]
    want = content["model.layers.1.mlp.down_proj.weight"].T.astype(dtype)
    np.testing.assert_array_equal(kernel[1], want)


@pytest.mark.parametrize("stored", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_non_finite_values_are_counted(tmp_path, stored):
    content = checkpoints.tensors(dtype=stored)
    content["model.norm.weight"][3] = np.nan
    content["model.layers.1.mlp.up_proj.weight"][:2, :4] = -np.inf
    folder = checkpoints.write(tmp_path / "m", content)
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2)
    # Replicated over one axis: a value is counted once.
    split = NamedSharding(mesh, PartitionSpec(None, "b"))
    where = _where_it_fits(load_config(folder), split)
    for dtype in (jnp.float32, jnp.bfloat16):
        with pytest.warns(UserWarning) as caught:
            load(folder, dtype=dtype, shardings=where)
        (warning,) = caught
        message = str(warning.message)
        assert f"{folder}: 9 values in 2 tensors are NaN or infinite" in message
        assert "model.norm.weight (1)" in message
        assert "model.layers.1.mlp.up_proj.weight (8)" in message


def _where_it_fits(config, sharding):
    """A sharding for each parameter; vectors are replicated."""
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    shapes = abstract_params(config)
    return jax.tree.map(lambda x: sharding if x.ndim > 1 else everywhere, shapes)


def test_overflow_of_the_requested_dtype_is_counted(tmp_path):
    content = checkpoints.tensors(dtype=np.float32)
    content["model.norm.weight"][:2] = 1e30
    folder = checkpoints.write(tmp_path / "m", content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(folder, dtype=jnp.bfloat16)
    with pytest.warns(UserWarning, match=r"model.norm.weight \(2\)"):
        load(folder, dtype=jnp.float16)


def test_links_of_a_hub_snapshot_are_followed(tmp_path):
    folder = checkpoints.write(tmp_path / "m", checkpoints.tensors(), shards=2)
    snapshot, blobs = tmp_path / "snapshots" / "abc", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(folder.iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    load(snapshot)


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
