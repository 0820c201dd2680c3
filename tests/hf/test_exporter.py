"""Exports are bit-exact and atomic, and never replace other files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import hf_folders as checkpoints

from targetsft_jax.hf import exporter
from targetsft_jax.hf.exporter import save_pretrained
from targetsft_jax.hf.importer import load_config, load_params


@pytest.fixture
def tiny(tmp_path):
    folder = checkpoints.write(tmp_path / "theirs", checkpoints.tensors())
    config = load_config(folder)
    return config, load_params(folder, config, dtype=jnp.bfloat16)


@pytest.mark.parametrize("limit", [10**9, 1500], ids=["single", "sharded"])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_round_trip_is_bit_exact(tmp_path, family, limit):
    content = checkpoints.tensors(family, tied=False)
    folder = checkpoints.write(tmp_path / "theirs", content, family, tied=False)
    config = load_config(folder)
    # Through float32 master weights, which must lose nothing.
    params = load_params(folder, config, dtype=jnp.float32)
    target = tmp_path / "ours"
    save_pretrained(target, config, params, dtype="bfloat16", max_shard_bytes=limit)
    back = checkpoints.read(target)
    assert back.keys() == content.keys()
    for key, tensor in content.items():
        assert back[key].dtype == tensor.dtype
        assert back[key].tobytes() == tensor.tobytes(), key
    files = sorted(target.glob("*.safetensors"))
    index = target / "model.safetensors.index.json"
    assert index.is_file() == (len(files) > 1) == (limit == 1500)
    if limit == 1500:
        document = json.loads(index.read_text())
        assert document["weight_map"].keys() == content.keys()
        assert document["metadata"]["total_size"] == sum(
            tensor.nbytes for tensor in content.values()
        )
        assert all(len(file.read_bytes()) < 1500 + 2000 for file in files)


def test_sharded_params_export_the_same(tmp_path, tiny):
    config, params = tiny
    mesh = jax.make_mesh((8,), ("a",), axis_types=(jax.sharding.AxisType.Auto,))

    def spread(leaf):
        spec = jax.sharding.PartitionSpec(*[None] * (leaf.ndim - 1), "a")
        return jax.device_put(leaf, jax.sharding.NamedSharding(mesh, spec))

    save_pretrained(tmp_path / "a", config, params)
    save_pretrained(tmp_path / "b", config, jax.tree.map(spread, params))
    name = "model.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_failure_leaves_the_earlier_export(tmp_path, tiny, monkeypatch):
    config, params = tiny
    target = tmp_path / "out"
    save_pretrained(target, config, params)
    before = (target / "model.safetensors").read_bytes()
    calls = []

    def fail(params, spec, read):
        calls.append(spec)
        if len(calls) == 5:
            raise OSError("disk full")
        return np.zeros(spec.shape, spec.dtype)

    with monkeypatch.context() as patch:
        patch.setattr(exporter, "_host_tensor", fail)
        with pytest.raises(OSError, match="disk full"):
            save_pretrained(target, config, params)
    assert (target / "model.safetensors").read_bytes() == before
    bigger = jax.tree.map(lambda leaf: leaf + 1, params)
    save_pretrained(target, config, bigger)  # leftovers are no obstacle
    assert (target / "model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "theirs"]


def test_parameters_that_do_not_fit(tmp_path, tiny):
    config, params = tiny
    wrong = {**params, "final_norm": params["final_norm"][:3], "extra": jnp.ones(2)}
    del wrong["embed"]
    with pytest.raises(ValueError) as error:
        save_pretrained(tmp_path / "out", config, wrong)
    message = str(error.value)
    assert "embed: found nothing, expected (40, 16)" in message
    assert "extra: found (2,), expected nothing" in message
    assert "final_norm: found (3,), expected (16,)" in message
    with pytest.raises(ValueError, match="int8.*float32, float16, bfloat16"):
        save_pretrained(tmp_path / "out", config, params, dtype=jnp.int8)
    assert not (tmp_path / "out").exists()


def test_all_processes_stop_if_the_primary_one_fails(tmp_path, tiny, monkeypatch):
    """The primary process broadcasts its failure before weights are gathered."""
    config, params = tiny
    (tmp_path / "file").touch()
    broadcasts = []

    def broadcast(value):
        broadcasts.append(bool(value))
        return np.asarray(True)

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(exporter.multihost_utils, "broadcast_one_to_all", broadcast)
    monkeypatch.setattr(exporter, "_write_weights", None)
    with pytest.raises(FileExistsError, match="file exists and is not a folder"):
        save_pretrained(tmp_path / "file", config, params)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(RuntimeError, match="process 0 could not begin.*file"):
        save_pretrained(tmp_path / "file", config, params)
    assert broadcasts == [True, False]
