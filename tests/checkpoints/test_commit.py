"""Checkpoints on an object store: saved, listed by their last file, restored, moved."""

import jax
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from targetsft_jax.checkpoints.commit import COMMIT_FILE, checkpoint_steps
from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.reader import StoredCheckpoint
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.storage.location import location
from targetsft_jax.storage.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path, store):
    """A local run directory whose checkpoints are in an object store."""
    (tmp_path / "run").mkdir()
    return RunDir(tmp_path / "run", location(f"{store}/checkpoints"))


def _arrays(step):
    w = jax.random.normal(jax.random.key(step), (12, 4))
    return {"params": {"layers": {"w": w}}, "optimizer": {"m": w + 1}}


def _save(run_dir, steps, keep=2):
    checkpoints = Checkpoints(run_dir, Retention(keep))
    for step in steps:
        assert checkpoints.save(_arrays(step), Position(step, 3, 8, "data"), {}) == []
    checkpoints.close()


def _restore(run_dir):
    sharding = SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), _arrays(0)
    )
    checkpoints = Checkpoints(run_dir, Retention(2))
    try:
        return checkpoints.restore(like, Position(0, 3, 8, "data"))
    finally:
        checkpoints.close()


def test_the_newest_complete_checkpoint_of_a_store_is_restored(run_dir, capsys):
    _save(run_dir, (1, 2, 3))
    assert checkpoint_steps(run_dir) == [2, 3]
    arrays, step = _restore(run_dir)
    assert step == 3
    jax.tree.map(np.testing.assert_array_equal, arrays, _arrays(3))
    # One layer at a time, as an export reads them.
    params = StoredCheckpoint(run_dir, 3).params()
    np.testing.assert_array_equal(
        params["layers"]["w"], _arrays(3)["params"]["layers"]["w"]
    )

    (run_dir.checkpoints / "3" / COMMIT_FILE).unlink()
    assert checkpoint_steps(run_dir) == [2]
    assert _restore(run_dir)[1] == 2
    assert "checkpoint 3 has no commit_success.txt" in capsys.readouterr().out
    assert (run_dir.damaged_checkpoints / "3" / "params" / "_METADATA").exists()

    damaged = run_dir.checkpoints / "2" / "position" / "metadata"
    damaged.write_text("{")
    with pytest.raises(ValueError, match="no checkpoint in gs://bucket/.*/checkpoints"):
        _restore(run_dir)
