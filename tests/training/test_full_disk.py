"""Full disk: training continues, saves are retried, a failed last save is an error."""

import errno
from dataclasses import replace

import pytest
from support import rig
from support.fits import CONFIG, STEPS, fit_target_sft

from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.storage import disk_full as disk
from targetsft_jax.telemetry.log import RunLog


def _full_at(steps, monkeypatch):
    """Make the saves of these steps fail for lack of space."""
    real = Checkpoints._begin

    def begin(self, arrays, position, metrics):
        if position.step in steps:
            raise ValueError("RESOURCE_EXHAUSTED: write: No space left on device")
        real(self, arrays, position, metrics)

    monkeypatch.setattr(Checkpoints, "_begin", begin)


def test_training_continues_and_saves_later(
    undisturbed,
    dataset,
    tmp_path,
    monkeypatch,
    capsys,
):
    _full_at([2], monkeypatch)
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0)
    finished = fit_target_sft(dataset, tmp_path, config=replace(CONFIG, save_every=2))
    rig.assert_equal_trees(rig.host(finished.state), rig.host(undisturbed[1].state))
    printed = capsys.readouterr().out
    assert "checkpoint 2 was not saved" in printed and "there is none yet" in printed
    assert "checkpoint 4 was not saved" not in printed
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    # RETRY_SECONDS is 0, so the step after the failure may be saved.
    assert {"4", "6"} <= names or {"3", "6"} <= names


def test_the_last_save_is_retried_and_then_reported(
    dataset,
    tmp_path,
    monkeypatch,
    capsys,
):
    _full_at([4, STEPS], monkeypatch)
    monkeypatch.setattr(disk, "LAST_SAVE_SECONDS", 0.2)
    monkeypatch.setattr(disk, "LAST_SAVE_INTERVAL", 0.05)
    with pytest.raises(OSError, match=r"step 6, was not saved.*\(2\) is intact"):
        fit_target_sft(dataset, tmp_path)
    assert capsys.readouterr().out.count("checkpoint 6 was not saved") == 1
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2"}
    # There is space again.
    monkeypatch.undo()
    assert fit_target_sft(dataset, tmp_path).resumed_from == 2


def test_metrics_are_buffered_until_there_is_space(
    undisturbed,
    dataset,
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
    finished = fit_target_sft(dataset, tmp_path)
    assert "step 3: disk full; its metrics" in capsys.readouterr().out
    rig.assert_equal_trees(rig.host(finished.state), rig.host(undisturbed[1].state))
