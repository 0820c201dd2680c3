"""Sharded reading of parameters, in pieces, with non-finite values counted."""

import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import hf_folders as checkpoints

from targetsft_jax.hf import shard_reader
from targetsft_jax.hf.importer import load_config, load_params
from targetsft_jax.models.decoder import abstract_params, logical_axes


def load(folder, **options):
    return load_params(folder, load_config(folder), **options)


def as_on_accelerators(patch):
    """Write every parameter into arrays that are already on the devices."""
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
    for a, b, expected in zip(*map(jax.tree.leaves, (unsharded, split, shardings))):
        np.testing.assert_array_equal(a, b)
        assert b.sharding == expected
    # Each slice is read once, even if it is on several devices.
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(unsharded))
    assert max(sizes) <= max(leaf.size for leaf in jax.tree.leaves(unsharded)) // 8


@pytest.mark.sweep(1)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_large_parameters_go_to_the_devices_in_pieces(tmp_path, dtype, monkeypatch):
    """Every tensor is larger than a piece, down to pieces of single rows."""
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
    expected = content["model.layers.1.mlp.down_proj.weight"].T.astype(dtype)
    np.testing.assert_array_equal(kernel[1], expected)


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
