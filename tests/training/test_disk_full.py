"""A disk that is full while a run saves: with a real one, and with its errors alone."""

import errno
import subprocess
from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from support import rig
from test_fit import CONFIG, STEPS, _fit, dataset, undisturbed  # noqa: F401

from targetsft_jax.checkpoints.manager import Checkpoints, Position
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.storage import disk_full as disk
from targetsft_jax.telemetry.log import RunLog
from targetsft_jax.training.state import TrainState


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, where this user may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder, leave):
    """A file that leaves so many bytes free."""
    path = folder / "ballast"
    with path.open("wb") as file:
        file.write(b"x" * (disk.free(folder) - leave))
    return path


def _state(step, size=50_000):
    w = jax.random.normal(jax.random.key(step), (size,))
    return TrainState(jnp.int32(step), {"w": w}, {"m": w + 1})


def test_a_real_full_disk_costs_one_save(small_disk):
    """Orbax writes in the background; the error comes later, and from C++."""
    checkpoints = Checkpoints(small_disk / "run", Retention(1))
    at = Position(1, 3, 8, "data")
    assert checkpoints.save(_state(1), at, {}) == []
    assert checkpoints.settled() == []
    ballast = _fill(small_disk, leave=150_000)
    lost = checkpoints.save(_state(2), replace(at, step=2), {})
    lost += checkpoints.settled()
    (said,) = lost
    assert said.startswith("checkpoint 2 was not saved: no space left for")
    assert "about 400 kB are needed" in said and "checkpoint 1 is whole" in said
    # What was half written does not go on to hold the space.
    assert disk.free(small_disk) > 100_000
    assert checkpoints.latest == 1
    ballast.unlink()
    assert checkpoints.save(_state(3), replace(at, step=3), {}) == []
    checkpoints.close()
    again = Checkpoints(small_disk / "run", Retention(1))
    state, step = again.restore(_state(0), at)
    assert step == 3
    rig.assert_equal_trees(rig.host(state), rig.host(_state(3)))
    again.close()


def _full_at(steps, monkeypatch):
    """Saves of these steps find no room; none does where it is None."""
    real = Checkpoints._begin

    def begin(self, state, position, metrics):
        if steps is None or position.step in steps:
            raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device")
        real(self, state, position, metrics)

    monkeypatch.setattr(Checkpoints, "_begin", begin)


def test_training_goes_on_and_saves_later(
    undisturbed,  # noqa: F811
    dataset,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    _full_at([2], monkeypatch)
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0)
    finished = _fit(dataset, tmp_path, config=replace(CONFIG, save_every=2))
    rig.assert_equal_trees(rig.host(finished.state), rig.host(undisturbed[1].state))
    said = capsys.readouterr().out
    assert "checkpoint 2 was not saved" in said and "none is there" in said
    assert "checkpoint 4 was not saved" not in said
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    # The step after the failure, as the time to try again was over at once.
    assert {"4", "6"} <= names or {"3", "6"} <= names


def test_the_last_save_waits_for_room_and_then_says_so(
    dataset,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    _full_at([4, STEPS], monkeypatch)
    monkeypatch.setattr(disk, "LAST_SECONDS", 0.2)
    monkeypatch.setattr(disk, "LAST_EVERY", 0.05)
    with pytest.raises(OSError, match=r"step 6, was not saved.*before \(2\) is whole"):
        _fit(dataset, tmp_path)
    assert capsys.readouterr().out.count("checkpoint 6 was not saved") >= 2
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2"}
    # Space has come back.
    monkeypatch.undo()
    assert _fit(dataset, tmp_path).resumed_from == 2


def test_numbers_wait_for_space_too(
    undisturbed,  # noqa: F811
    dataset,  # noqa: F811
    tmp_path,
    monkeypatch,
    capsys,
):
    real = RunLog.write

    def write(self, step, metrics):
        if step == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, step, metrics)

    monkeypatch.setattr(RunLog, "write", write)
    finished = _fit(dataset, tmp_path)
    assert "step 3: disk full; its metrics" in capsys.readouterr().out
    rig.assert_equal_trees(rig.host(finished.state), rig.host(undisturbed[1].state))


def test_what_is_no_full_disk_is_raised(tmp_path, monkeypatch):
    assert not disk.lacks_space(OSError(errno.EIO, "Input/output error"))
    assert disk.lacks_space(OSError(errno.EDQUOT, "Disk quota exceeded"))
    wrapped = RuntimeError("save failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "x")
    assert disk.lacks_space(wrapped)
    checkpoints = Checkpoints(tmp_path, Retention(1))

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Checkpoints, "_begin", broken)
    with pytest.raises(OSError, match="Input/output"):
        checkpoints.save(_state(1), Position(1, 3, 8, "data"), {})
