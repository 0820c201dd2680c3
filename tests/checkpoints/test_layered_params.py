"""Parameters on disk, read one layer at a time, in chunks of any number of layers."""

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from targetsft_jax.checkpoints.layered_params import (
    StoredLeaf,
    open_params,
    save_params,
)
from targetsft_jax.models.layer_leaf import LayerLeaf
from targetsft_jax.storage.run_dir import RunDir

PARAMS = {
    "embed": np.arange(40, dtype=np.float32).reshape(8, 5),
    "layers": {"w": np.arange(60, dtype=np.int32).reshape(5, 4, 3)},
}


def _open(run_dir):
    return open_params(run_dir.checkpoints / "0" / "params")


@pytest.fixture
def run_dir(tmp_path):
    run_dir = RunDir(tmp_path)
    save_params(run_dir, PARAMS)
    return run_dir


def test_leaves_are_those_that_were_saved(run_dir):
    tree = _open(run_dir)
    assert jax.tree.structure(tree) == jax.tree.structure(PARAMS)
    for leaf, want in zip(jax.tree.leaves(tree), jax.tree.leaves(PARAMS)):
        assert isinstance(leaf, StoredLeaf) and isinstance(leaf, LayerLeaf)
        assert (leaf.shape, leaf.dtype) == (want.shape, want.dtype)
        np.testing.assert_array_equal(np.asarray(leaf), want)


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("order", [range(5), [4, 0, 3, 1, 2], [2, 2, 1]])
def test_layers_in_any_order_from_chunks_of_any_size(tmp_path, chunk, order):
    """Earlier checkpoints hold several layers in a chunk."""
    with ocp.CheckpointManager((tmp_path / "checkpoints").absolute()) as manager:
        size = chunk * PARAMS["layers"]["w"][0].nbytes
        one = ocp.SaveArgs(chunk_byte_size=size, shard_axes=(0,))
        item = ocp.args.StandardSave(
            PARAMS, save_args=jax.tree.map(lambda _: one, PARAMS)
        )
        manager.save(0, args=ocp.args.Composite(params=item))
    leaf = _open(RunDir(tmp_path))["layers"]["w"]
    for layer in order:
        np.testing.assert_array_equal(leaf[layer], PARAMS["layers"]["w"][layer])


def test_one_layer_is_read_and_none_is_cached(run_dir):
    leaf = _open(run_dir)["layers"]["w"]
    assert leaf._store.chunk_layout.read_chunk.shape == (1, 4, 3)
    for layer in range(5):
        assert leaf[layer].base is None or leaf[layer].base.size <= 12
        assert not len(leaf._layers)


def test_a_folder_without_parameters(run_dir):
    folder = run_dir.checkpoints / "0" / "params"
    (folder / "_METADATA").write_text('{"tree_metadata": {"a": {}}}')
    with pytest.raises(ValueError, match="cannot be read .KeyError"):
        open_params(folder)
