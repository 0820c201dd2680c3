"""Learning rate against its formula; AdamW, decay mask and clipping."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.training.optimizer import learning_rate, make_optimizer


def _rates(config: TrainConfig, steps: int) -> list[float]:
    schedule = learning_rate(config, steps)
    return [float(schedule(i)) for i in range(steps)]


def test_warm_up_rises_from_the_first_step_and_cosine_falls_to_the_end():
    config = TrainConfig(
        learning_rate=2.0, warmup_ratio=0.2, final_learning_rate_ratio=0.1
    )
    steps, warmup = 50, 10
    expected = [2.0 * (i + 1) / warmup for i in range(warmup)]
    for i in range(warmup, steps):
        share = (i + 1 - warmup) / (steps + 1 - warmup)
        expected.append(0.2 + 1.8 * (1 + math.cos(math.pi * share)) / 2)
    rates = _rates(config, steps)
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert rates[0] > 0
    assert max(rates) == rates[warmup - 1] == 2.0
    assert 0.2 < rates[-1] < rates[-2]


def test_without_warm_up_the_first_step_has_the_peak():
    rates = _rates(TrainConfig(learning_rate=3.0, warmup_ratio=0.0), 10)
    expected = [1.5 * (1 + math.cos(math.pi * i / 10)) for i in range(10)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 320])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.99])
def test_every_step_trains(steps: int, ratio: float):
    rates = _rates(TrainConfig(learning_rate=1.0, warmup_ratio=ratio), steps)
    assert all(0 < rate <= 1 for rate in rates) and max(rates) == 1


def test_warm_up_steps_are_rounded_up():
    """As in transformers; 0.1 of 13 steps are 2, not 1."""
    rates = _rates(TrainConfig(learning_rate=1.0, warmup_ratio=0.1), 13)
    assert rates[:2] == [0.5, 1.0] and rates[2] < 1


def _params():
    """Parameters of a decoder with biases, a head and norms, all ones."""
    return jax.tree.map(np.ones_like, rig.params_of(rig.OTHER))


def test_only_norms_and_biases_do_not_decay():
    """With a zero gradient the update of AdamW is −lr · decay · p."""
    config = TrainConfig(learning_rate=0.5, warmup_ratio=0, weight_decay=0.25)
    optimizer = make_optimizer(config, 10)
    params = _params()
    zeros = jax.tree.map(np.zeros_like, params)

    @jax.jit
    def update(gradient, params):
        return optimizer.update(gradient, optimizer.init(params), params)[0]

    updates = update(zeros, params)
    constant, decayed = set(), set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        first = float(np.asarray(update).flat[0])
        assert np.all(np.asarray(update) == first)
        (constant if first == 0 else decayed).add(name)
        assert first in (0, -0.125)
    assert constant == {
        "final_norm",
        "layers.input_norm",
        "layers.post_norm",
        "layers.attention.q.bias",
        "layers.attention.k.bias",
        "layers.attention.v.bias",
    }
    assert decayed == {
        "embed",
        "head",
        *(f"layers.attention.{name}.kernel" for name in "qkvo"),
        *(f"layers.mlp.{name}.kernel" for name in ("gate", "up", "down")),
    }


@pytest.mark.parametrize(
    "clip, norm, factor", [(1.0, 4.0, 0.25), (1.0, 0.5, 1.0), (0.0, 4.0, 1.0)]
)
def test_the_gradient_is_clipped_before_the_moments(clip, norm, factor):
    """Checked on the first moment: Adam's update does not depend on the scale."""
    config = TrainConfig(clip_norm=clip, beta1=0.75)
    optimizer = make_optimizer(config, 10)
    params = {"a": jnp.ones((2, 2)), "b": jnp.ones((3, 4))}
    gradient = jax.tree.map(lambda p: p * norm / 4.0, params)  # 16 entries
    state = optimizer.update(gradient, optimizer.init(params), params)[1]
    for moment, g in zip(
        jax.tree.leaves(optax.tree_utils.tree_get(state, "mu")),
        jax.tree.leaves(gradient),
    ):
        np.testing.assert_allclose(moment, 0.25 * factor * g, rtol=1e-6)


def test_updates_equal_adamw():
    """Two steps of the published formulas, in float64."""
    config = TrainConfig(
        learning_rate=0.1,
        warmup_ratio=0,
        weight_decay=0.02,
        beta1=0.8,
        beta2=0.9,
        clip_norm=0,
    )
    optimizer = make_optimizer(config, 4)
    p, gradients = np.array([[1.0, -2.0]]), [[[0.3, 1e-3]], [[-0.1, 2e-3]]]
    params = {"w": jnp.asarray(p, jnp.float32)}
    state = optimizer.init(params)
    m, v = np.zeros_like(p), np.zeros_like(p)
    for i, g in enumerate(np.asarray(gradients)):
        updates, state = optimizer.update(
            {"w": jnp.asarray(g, jnp.float32)}, state, params
        )
        params = optax.apply_updates(params, updates)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        unbiased = (m / (1 - 0.8 ** (i + 1)), v / (1 - 0.9 ** (i + 1)))
        rate = 0.05 * (1 + math.cos(math.pi * i / 4))
        p = p - rate * (unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8) + 0.02 * p)
        np.testing.assert_allclose(params["w"], p, rtol=1e-6)
