"""Retention of checkpoints on disk, and the timer between saves."""

from dataclasses import replace

import jax.numpy as jnp
import pytest

from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.retention import Retention, SaveTimer
from targetsft_jax.storage.run_dir import RunDir

POSITION = Position(0, 3, 8, "data")


def _arrays(step):
    params = {"w": jnp.arange(6.0).reshape(2, 3) + step}
    return {"params": params, "optimizer": {"step": jnp.int32(step)}}


def _save(folder, retention, losses):
    """Save one checkpoint per loss; returns the steps that stay."""
    run_dir = RunDir(folder)
    checkpoints = Checkpoints(run_dir, retention)
    for step, loss in enumerate(losses, 1):
        position = replace(POSITION, step=step)
        checkpoints.save(_arrays(step), position, {"loss": loss, "nll": 1.0})
    checkpoints.close()
    names = (path.name for path in run_dir.checkpoints.iterdir())
    return sorted(int(name) for name in names if name.isdecimal())


LOSSES = [3.0, 2.0, 1.0, 2.5, float("nan"), 2.0, 2.25]


@pytest.mark.parametrize(
    "retention, steps",
    [
        (Retention(2), [6, 7]),
        (Retention(1, every=3), [3, 6, 7]),
        (Retention(1, best="loss"), [3, 7]),
        (Retention(1, every=2, best="loss"), [2, 3, 4, 6, 7]),
    ],
)
def test_checkpoints_that_any_rule_names_stay(retention, steps, tmp_path):
    assert _save(tmp_path, retention, LOSSES) == steps


def test_the_best_is_known_after_a_restart(tmp_path):
    rule = Retention(1, best="loss")
    assert _save(tmp_path, rule, LOSSES[:3]) == [3]
    checkpoints = Checkpoints(RunDir(tmp_path), rule)
    for step in (4, 5):
        checkpoints.save(_arrays(step), replace(POSITION, step=step), {"loss": 2.0})
    checkpoints.close()
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "5"}


def test_a_step_without_the_metric_is_not_the_best():
    rule = Retention(1, best="validation_nll")
    assert rule.judged({"loss": 1.0}) is None
    assert rule.judged({"loss": 1.0, "validation_nll": 0.5}) == {"value": 0.5}


def test_a_metric_that_steps_lack_is_named(tmp_path):
    with pytest.raises(ValueError, match="train.keep_best is 'acc'.*loss, nll"):
        _save(tmp_path, Retention(1, best="acc"), [1.0])


def test_the_timer_is_due_once_per_interval():
    now = [0.0]
    timer = SaveTimer(0.5, clock=lambda: now[0])
    due = []
    for now[0] in (10, 29, 31, 32, 60, 62):
        due.append(timer.due())
    assert due == [False, False, True, False, False, True]
    now[0] = 80
    timer.restart()
    now[0] = 100
    assert not timer.due()
    never = SaveTimer(None, clock=lambda: 1e12)
    assert not never.due()


def test_the_timer_is_due_early_after_a_failed_save():
    now = [0.0]
    timer = SaveTimer(None, clock=lambda: now[0])
    timer.again(5)
    due = []
    for now[0] in (4, 5, 6, 1000):
        due.append(timer.due())
    assert due == [False, True, False, False]
    timer.again(5)
    timer.restart()
    now[0] = 2000
    assert not timer.due()
