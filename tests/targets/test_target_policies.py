"""Policy parameters: when they change, and to which values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax import trajectory_weight
from targetsft_jax.targets.policies import (
    AVERAGE,
    FROM_DATA,
    OLD,
    REFERENCE,
    STUDENT,
    Snapshot,
    Trajectory,
)


def _params(value, dtype="float32"):
    return {"w": jnp.full(3, value, dtype)}


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_snapshot_is_the_student_before_the_last_refresh(every: int):
    policy = Snapshot(every)
    state, before = policy.start(_params(0.0)), jax.jit(policy.before)
    for step in range(7):
        # The student of step s is s everywhere.
        state = before(jnp.asarray(step), _params(float(step)), state)
        np.testing.assert_array_equal(state[OLD]["w"], every * (step // every))
        assert policy.after(_params(step + 1.0), state) is state


def test_an_average_follows_its_decay_in_float32():
    policy = Trajectory(average=True, decay=0.75)
    state = policy.start(_params(1.0, "bfloat16"))
    assert state[AVERAGE]["w"].dtype == jnp.float32
    expected = 1.0
    for value in (2.0, -1.0, 0.5):
        state = policy.after(_params(value, "bfloat16"), state)
        expected = 0.75 * expected + 0.25 * value
        np.testing.assert_allclose(state[AVERAGE]["w"], expected, rtol=1e-6)


def test_trajectory_weights_compare_the_policies_of_reads():
    batch = {
        "segment_ids": np.array([[1, 1, 2, 2]]),
        "loss_mask": np.array([[True, True, False, True]]),
    }
    logprobs = {
        name: -np.linspace(1, 2, 4, dtype="f4")[None] * factor
        for name, factor in ((STUDENT, 1.0), (AVERAGE, 1.5), (REFERENCE, 2.0))
    }
    for average, q in ((False, STUDENT), (True, AVERAGE)):
        policy = Trajectory(average, mode="sum", temperature=0.5, clip=(0.1, 3.0))
        assert policy.reads == (q, REFERENCE)
        columns = policy.columns(logprobs.__getitem__, batch)
        expected = trajectory_weight(
            logprobs[q],
            logprobs[REFERENCE],
            batch["segment_ids"],
            mode="sum",
            temperature=0.5,
            clip=(0.1, 3.0),
            loss_mask=batch["loss_mask"],
        )
        np.testing.assert_array_equal(columns["trajectory_weight"], expected)


def test_a_snapshot_column_is_its_label_log_probability():
    columns = Snapshot().columns({OLD: "log π_old"}.__getitem__, {})
    assert columns == {"old_logprob": "log π_old"}


def test_the_base_class_stores_and_reads_nothing():
    assert FROM_DATA.start(_params(1.0)) == {} and FROM_DATA.reads == ()
    assert FROM_DATA.columns({}.__getitem__, {}) == {}


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, float("nan")])
def test_refresh_every_is_a_whole_number(wrong):
    with pytest.raises(ValueError, match="refresh_every is .*whole number, 1 or more"):
        Snapshot(wrong)


@pytest.mark.parametrize(
    "settings",
    [
        {"decay": float("nan")},
        {"decay": 1.0},
        {"decay": "x"},
        {"mode": "median"},
        {"temperature": float("nan")},
        {"temperature": -1.0},
        {"clip": (0.0, float("inf"))},
        {"clip": (1.0, 0.0)},
    ],
    ids=str,
)
def test_settings_of_trajectory_weights_are_in_their_domains(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ValueError, match=f"^{name} is .*expected"):
        Trajectory(**settings)
