"""Hyper-parameters with a schedule in the train step."""

import shutil
from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.fits import CONFIG, fit_target_sft
from support.quick import quicker

from targetsft_jax.config.schedule import Schedule
from targetsft_jax.training.validate import make_measure

STEPS = 4
UPDATE = optax.sgd(0.3, momentum=0.9)


def _scheduled(spec, steps=STEPS, **schedules):
    return replace(spec, method=replace(spec.method, schedules=schedules), steps=steps)


@lru_cache
def _built(eta: float | None = None):
    """The step with η from 0 to 1, or with a constant."""
    if eta is None:
        spec = _scheduled(rig.make_spec(), eta=Schedule(0.0, 1.0))
    else:
        spec = rig.make_spec(hyper={"eta": eta})
    return rig.build(spec, UPDATE, options=quicker())


@lru_cache
def _states():
    """States before and after each step of the scheduled run, and its metrics."""
    built = _built()
    state, states, metrics = built.fresh(), [], []
    states.append(rig.host(state))
    for _ in range(STEPS):
        state, one = built.step(state, built.frozen, rig.micro(1))
        states.append(rig.host(state))
        metrics.append(rig.host(one))
    return states, metrics


def test_the_value_of_each_step_is_a_metric():
    values = [one["schedule"] for one in _states()[1]]
    np.testing.assert_allclose(values, [0.25, 0.5, 0.75, 1.0], rtol=1e-6)


@pytest.mark.parametrize("number", [2, 4])
def test_a_step_equals_that_of_the_constant_set_by_hand(number: int):
    states, metrics = _states()
    plain = _built(number / STEPS)
    before = jax.tree.map(jnp.array, states[number - 1])
    after, expected = plain.step(before, plain.frozen, rig.micro(1))
    assert "schedule" not in expected
    rig.assert_close_trees(states[number].params, rig.host(after.params), 40)
    for name, value in expected.items():
        np.testing.assert_allclose(
            metrics[number - 1][name], value, rtol=2e-5, atol=1e-6, err_msg=name
        )


def test_a_resumed_run_equals_an_uninterrupted_one():
    """The value follows from the number of the step in the state, and nothing else."""
    states, metrics = _states()
    built = _built()
    state = jax.tree.map(jnp.array, states[2])
    for number in (3, 4):
        state, one = built.step(state, built.frozen, rig.micro(1))
        assert one["schedule"] == metrics[number - 1]["schedule"]
    rig.assert_equal_trees(rig.host(state), states[STEPS])


@pytest.mark.slow
def test_a_run_resumes_its_schedule_from_a_checkpoint(dataset, tmp_path):
    """`fit` sets the number of steps; without the last checkpoint it repeats two."""
    config = replace(CONFIG, steps=STEPS, save_every=2)
    eta = Schedule(0.0, 1.0, "cosine")
    spec = _scheduled(rig.make_spec(), steps=None, eta=eta)
    whole = fit_target_sft(dataset, tmp_path, config=config, spec=spec)
    metrics = rig.untimed(rig.metrics_of(tmp_path))
    values = [eta.value(number, STEPS) for number in range(1, STEPS + 1)]
    np.testing.assert_allclose([row["schedule"] for row in metrics], values, rtol=1e-6)
    shutil.rmtree(tmp_path / "checkpoints" / str(STEPS))
    again = fit_target_sft(dataset, tmp_path, config=config, spec=spec)
    assert again.resumed_from == 2
    rig.assert_equal_trees(rig.host(again.state), rig.host(whole.state))
    assert rig.untimed(rig.metrics_of(tmp_path)) == metrics


@pytest.mark.slow
def test_validation_has_the_value_of_the_last_step():
    """After two of four steps its loss is that of η = 1/2."""
    states, _ = _states()
    state = jax.tree.map(jnp.array, states[2])
    losses = []
    for spec in (
        _scheduled(rig.make_spec(), eta=Schedule(0.0, 1.0)),
        rig.make_spec(hyper={"eta": 0.5}),
    ):
        measure = make_measure(spec, rig.one_device())
        batch = {name: jnp.array(x) for name, x in rig.batch().items()}
        sums = measure(state, rig.frozen_of(spec), batch)
        losses.append(float(sums["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_schedule_needs_the_number_of_steps():
    spec = _scheduled(rig.make_spec(), steps=None, eta=Schedule(0.0, 1.0))
    with pytest.raises(ValueError, match=r"target\.eta has a schedule and .*steps is"):
        rig.lower(spec, UPDATE, rig.one_device(), rig.ROWS, rig.LENGTH)


def test_constants_have_the_program_without_schedules():
    """The number of steps alone adds nothing to it."""
    texts = [
        rig.lower(
            replace(rig.make_spec(), steps=steps),
            UPDATE,
            rig.one_device(),
            rig.ROWS,
            rig.LENGTH,
        ).as_text()
        for steps in (None, STEPS)
    ]
    assert texts[0] == texts[1]
