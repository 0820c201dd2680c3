"""Schedules of hyper-parameters: values by step, domains, defaults of methods."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from targetsft_jax.config.load import load
from targetsft_jax.config.method import resolve
from targetsft_jax.config.schedule import Schedule
from targetsft_jax.config.schema import ConfigError, PolicyConfig


def _resolved(name, **target):
    return resolve({"name": name, **target}, PolicyConfig())


@pytest.mark.parametrize(
    "shape, half, quarter", [("linear", 0.5, 0.25), ("cosine", 0.5, 0.146446609)]
)
def test_values_by_step(shape: str, half: float, quarter: float):
    schedule = Schedule(0.2, 0.6, shape)
    # Of eight steps: none, two, four, the last, and one beyond.
    expected = [0.2, 0.2 + 0.4 * quarter, 0.2 + 0.4 * half, 0.6, 0.6]
    traced = jax.jit(jax.vmap(lambda step: schedule.value(step, 8)))
    values = traced(jnp.array([0, 2, 4, 8, 9]))
    assert values.dtype == jnp.float32
    np.testing.assert_allclose(values, expected, rtol=1e-6)
    np.testing.assert_allclose(schedule.value(2, 8), expected[1], rtol=1e-6)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_values_stay_between_the_ends(shape: str):
    """No rounding beyond an end, which would be outside of the domain."""
    for first, last in ((0.3, 1.0), (1.0, 1.0), (1.0, 0.1)):
        steps = np.arange(1001)
        values = jax.vmap(lambda s: Schedule(first, last, shape).value(s, 1000))(steps)  # noqa: B023
        low, high = np.float32(min(first, last)), np.float32(max(first, last))
        assert (values >= low).all() and (values <= high).all()
        assert values[0] == np.float32(first) and values[-1] == np.float32(last)


def test_a_schedule_is_part_of_the_resolved_method():
    eta = {"from": 0, "to": 1, "shape": "cosine"}
    method = _resolved("target_sft", eta=eta)
    assert method.schedules == {"eta": Schedule(0.0, 1.0, "cosine")}
    # `hyper` is complete: methods may choose their inputs by it.
    assert dict(method.hyper) == {"eta": 1.0, "gamma": None}
    assert str(method) == "target_sft (eta=0 to 1 (cosine))"
    assert not _resolved("target_sft", eta=0.3).schedules


@pytest.mark.parametrize(
    "name, key",
    [
        ("target_sft", "eta"),
        ("target_sft", "gamma"),
        ("kd_h", "kd_weight"),
        ("kl", "kl_weight"),
        ("asft", "kl_weight"),
        ("label_smoothing", "smoothing"),
        ("taid", "eta"),
    ],
)
def test_a_configuration_takes_a_mapping(name: str, key: str):
    models = ["--student.path", "s", "--teacher.path", "t", "--target.name", name]
    config = load([*models, f"--target.{key}", "{from: 0, to: 0.5}"])
    assert config.method.schedules == {key: Schedule(0.0, 0.5)}
    config = load([*models, f"--target.{key}.from", "1", f"--target.{key}.to", "0"])
    assert config.method.schedules == {key: Schedule(1.0, 0.0)}


def test_taid_moves_to_the_teacher_by_default():
    assert _resolved("taid").schedules == {"eta": Schedule(0.0, 1.0)}
    fixed = _resolved("taid", eta=0.4)
    assert not fixed.schedules and fixed.hyper["eta"] == 0.4


@pytest.mark.parametrize(
    "name, key, value, message",
    [
        (
            "target_sft",
            "eta",
            {"from": 2},
            r"target\.eta\.from is 2; expected a number in \[0, 1\]",
        ),
        (
            "target_sft",
            "eta",
            {"from": 0, "to": -1},
            r"target\.eta\.to is -1; expected",
        ),
        ("target_sft", "eta", {"from": 0}, r"target\.eta\.to has no number; expected"),
        ("target_sft", "gamma", {"from": None, "to": 1}, r"target\.gamma\.from has no"),
        ("target_sft", "eta", {}, r"target\.eta\.from has no number; expected"),
        (
            "kl",
            "kl_weight",
            {"from": "a", "to": 1},
            r"kl_weight\.from is 'a'; expected",
        ),
        (
            "kl",
            "kl_weight",
            {"from": 0, "to": 1, "shape": "step"},
            r"kl_weight\.shape is 'step'; expected one of linear, cosine",
        ),
        (
            "kd_h",
            "kd_weight",
            {"from": 0, "to": 1, "over": 3},
            r"kd_weight\.over is not a key of a schedule; expected from, to and shape",
        ),
        (
            "alpha",
            "alpha",
            {"from": 0, "to": 1},
            r"target\.alpha is .*one number, since",
        ),
        (
            "custom",
            "gamma",
            {"from": 0, "to": 1},
            r"target\.gamma is .*expected one of",
        ),
    ],
)
def test_refusals_name_the_key_in_one_line(name, key, value, message):
    with pytest.raises(ValueError, match=message) as error:
        _resolved(name, **{key: value})
    assert "\n" not in str(error.value)


def test_a_schedule_of_the_command_line_is_refused_by_its_key():
    arguments = ["--student.path", "s", "--teacher.path", "t", "--target.eta"]
    with pytest.raises(ConfigError, match=r"target\.eta\.from is 2"):
        load([*arguments, "{from: 2, to: 1}"])
    with pytest.raises(ConfigError, match=r"target\.eta\.from is \[0\]; expected"):
        load([*arguments, "{from: [0], to: 1}"])
