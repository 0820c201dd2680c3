"""When a run saves and what stays: the policy, and what is left on the disk."""

from dataclasses import replace

import jax.numpy as jnp
import pytest

from targetsft_jax.checkpoints.manager import Checkpoints, Position
from targetsft_jax.checkpoints.provenance import Provenance
from targetsft_jax.checkpoints.retention import Retention, SaveTimer
from targetsft_jax.training.state import TrainState

POSITION = Position(0, 3, 8, "data")


def _state(step):
    params = {"w": jnp.arange(6.0).reshape(2, 3) + step}
    return TrainState(jnp.int32(step), params, {"m": jnp.zeros(3)})


def _saved(run_dir, retention, losses):
    checkpoints = Checkpoints(run_dir, retention)
    for step, loss in enumerate(losses, 1):
        at = replace(POSITION, step=step)
        checkpoints.save(_state(step), at, {"loss": loss, "nll": 1.0})
    checkpoints.close()
    names = (path.name for path in (run_dir / "checkpoints").iterdir())
    return sorted(int(name) for name in names if name.isdecimal())


LOSSES = [3.0, 2.0, 1.0, 2.5, float("nan"), 2.0, 2.25]


@pytest.mark.parametrize(
    "retention, left",
    [
        (Retention(2), [6, 7]),
        (Retention(1, every=3), [3, 6, 7]),
        (Retention(1, best="loss"), [3, 7]),
        (Retention(1, every=2, best="loss"), [2, 3, 4, 6, 7]),
    ],
)
def test_what_any_rule_names_stays(retention, left, tmp_path):
    assert _saved(tmp_path, retention, LOSSES) == left


def test_the_best_is_known_after_a_restart(tmp_path):
    rule = Retention(1, best="loss")
    assert _saved(tmp_path, rule, LOSSES[:3]) == [3]
    checkpoints = Checkpoints(tmp_path, rule)
    for step in (4, 5):
        at = replace(POSITION, step=step)
        checkpoints.save(_state(step), at, {"loss": 2.0})
    checkpoints.close()
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"3", "5"}


def test_what_is_not_measured_in_a_step_is_not_its_best():
    rule = Retention(1, best="validation_nll")
    assert rule.judged({"loss": 1.0}) is None
    assert rule.judged({"loss": 1.0, "validation_nll": 0.5}) == {"value": 0.5}


def test_a_metric_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="train.keep_best is 'acc'.*loss, nll"):
        _saved(tmp_path, Retention(1, best="acc"), [1.0])


def test_the_timer_says_so_once():
    now = [0.0]
    timer = SaveTimer(0.5, clock=lambda: now[0])
    said = []
    for now[0] in (10, 29, 31, 32, 60, 62):
        said.append(timer.due())
    assert said == [False, False, True, False, False, True]
    now[0] = 80
    timer.restart()
    now[0] = 100
    assert not timer.due()
    never = SaveTimer(None, clock=lambda: 1e12)
    assert not never.due()


def test_other_versions_are_said_and_other_frozen_models_refused(tmp_path, capsys):
    before = Provenance({"seed": 1}, {"teacher": "aa"}, {"jax": "0.9"})
    checkpoints = Checkpoints(tmp_path, Retention(), before)
    checkpoints.save(_state(1), replace(POSITION, step=1), {})
    checkpoints.close()
    now = replace(before, versions={"jax": "0.10"})
    state, step = Checkpoints(tmp_path, Retention(), now).restore(_state(0), POSITION)
    assert step == 1 and int(state.params["w"][0, 0]) == 1
    assert "checkpoint 1: jax was 0.9 and is 0.10" in capsys.readouterr().out
    swapped = replace(before, frozen={"teacher": "bb"})
    with pytest.raises(ValueError, match="frozen teacher has other weights.*aa.*bb"):
        Checkpoints(tmp_path, Retention(), swapped).restore(_state(0), POSITION)
