"""Dropout of adapters: PEFT's rule, and masks that depend on the rows alone."""

from dataclasses import replace
from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig

from targetsft_jax.models import lora
from targetsft_jax.models.layers import Projection
from targetsft_jax.models.lora import PROJECTIONS, Lora
from targetsft_jax.parallel.mesh import make_mesh

RATE = 0.3
ROWS, LENGTH, WIDTH = 6, 16, 32
LINEAR = optax.sgd(0.1)
ROUNDINGS = 300


SLOTS = np.arange(LENGTH)


def _dropped(
    step=0, seed=0, rate=RATE, rows=(1, ROWS), module="q", layer=0, slots=SLOTS
):
    """Input of an adapter after dropout, of ones: A and B are the identity."""
    eye = jnp.eye(WIDTH)[None].repeat(2, 0)
    base = {"kernel": jnp.zeros((2, WIDTH, WIDTH))}
    tree, adapters = base, {"lora_a": eye, "lora_b": eye}
    for name in (module, "attention", "layers"):
        tree, adapters = {name: tree}, {name: adapters}
    keys = lora.dropout_keys(seed, jnp.asarray(step), rows).reshape(-1, 2)
    adapted = Lora(WIDTH, WIDTH, (module,), rate)
    attached = lora.attach(tree, adapters, adapted, keys, slots)
    params = jax.tree.map(
        lambda leaf: leaf[layer], attached["layers"]["attention"][module]
    )
    projection = Projection(WIDTH, False, nn.initializers.zeros_init(), jnp.float32)
    ones = jnp.ones((rows[0] * rows[1], LENGTH, WIDTH))
    return np.asarray(projection.apply({"params": params}, ones))


def test_the_rule_is_that_of_peft():
    """Each element is 0 with the rate p, else multiplied by 1 / (1 − p)."""
    outputs = np.stack([_dropped(step) for step in range(20)])
    is_zero = outputs == 0
    np.testing.assert_allclose(outputs[~is_zero], 1 / (1 - RATE), rtol=1e-6)
    # Five standard deviations of a binomial share; the expectation is the input.
    deviation = np.sqrt(RATE * (1 - RATE) / is_zero.size)
    assert abs(is_zero.mean() - RATE) < 5 * deviation
    assert abs(outputs.mean() - 1) < 5 * deviation / (1 - RATE)


def test_masks_of_rows_steps_layers_modules_and_seeds_are_independent():
    masks = {
        "row": _dropped()[:, None] == 0,
        "step": _dropped(step=1)[0][None, None] == 0,
        "layer": _dropped(layer=1)[0][None, None] == 0,
        "seed": _dropped(seed=1)[0][None, None] == 0,
        "module": np.stack([_dropped(module=m)[0] for m in PROJECTIONS[1:4]])[:, None]
        == 0,
    }
    masks = np.concatenate([x.reshape(-1, LENGTH * WIDTH) for x in masks.values()])
    correlations = np.corrcoef(masks)[np.triu_indices(len(masks), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(masks.shape[1])
    # Nor are positions of one row alike.
    assert len(np.unique(_dropped()[0], axis=0)) == LENGTH


def test_a_row_has_the_same_mask_in_any_number_of_micro_batches():
    expected = _dropped()
    for rows in ((2, 3), (3, 2), (6, 1)):
        np.testing.assert_array_equal(_dropped(rows=rows), expected)


def test_a_token_has_the_same_mask_wherever_the_tokens_of_its_row_are():
    order = np.random.default_rng(0).permutation(LENGTH)
    np.testing.assert_array_equal(_dropped(slots=order), _dropped()[:, order])


def test_no_rate_and_no_keys_leave_the_input_as_it_is():
    np.testing.assert_array_equal(_dropped(rate=0.0), np.ones((ROWS, LENGTH, WIDTH)))


def _spec(rate=RATE, **changes):
    adapters = Lora(4, 12.0, ("q", "o", "down"), rate)
    return rig.make_spec("sft", lora=adapters, **changes)


@lru_cache
def _built(remat="none", parts=1, mesh=None):
    spec = _spec(remat=remat)
    return rig.build(spec, LINEAR, mesh and make_mesh(*mesh), parts)


def _updated(step=0, parts=1, **layout):
    """Adapters after one step, and its loss."""
    built = _built(parts=parts, **layout)
    start = built.fresh()
    start = replace(start, step=start.step + step)
    state, metrics = built.step(start, built.frozen, rig.micro(parts))
    return rig.host(state.params), float(metrics["loss"])


@pytest.mark.parametrize(
    "layout",
    [{"remat": "full", "parts": 4}, {"remat": "dots", "mesh": (2, 2, 2)}],
    ids=str,
)
def test_a_step_is_the_same_in_every_layout(layout):
    params, loss = _updated()
    other, other_loss = _updated(**layout)
    assert other_loss == pytest.approx(loss, rel=1e-5)
    start = rig.adapters_of(rig.STUDENT, _spec().lora)
    rig.assert_close_trees(other, params, ROUNDINGS, start)


def test_each_step_has_other_masks():
    losses = [_updated(step)[1] for step in (0, 1, 0)]
    assert losses[0] == losses[2] != pytest.approx(losses[1], rel=1e-4)


def test_a_rate_of_0_has_no_random_numbers_in_its_program():
    def text(rate):
        mesh = rig.one_device()
        return rig.lower(_spec(rate), LINEAR, mesh, rig.ROWS, rig.LENGTH).as_text()

    assert "threefry" in text(RATE)
    assert "threefry" not in text(0.0) and "ui32" not in text(0.0)
