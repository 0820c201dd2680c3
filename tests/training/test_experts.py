"""Train steps of mixtures of experts: on meshes, and with the auxiliary loss."""

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.models.decoder import apply_routed
from targetsft_jax.models.experts import auxiliary_loss
from targetsft_jax.models.lora import Lora, num_adapter_parameters
from targetsft_jax.parallel.mesh import make_mesh, put_rows

RATE = 0.1
LINEAR = optax.sgd(RATE)
EXPERTS = {"num_experts": 4, "experts_per_token": 2, "expert_size": 24}
STUDENT = replace(rig.STUDENT, **EXPERTS, router_aux_loss_coef=0.5)
TEACHER = replace(rig.OTHER, **EXPERTS, norm_topk_prob=True)
SPECS = {
    "full": replace(
        rig.make_spec(frozen={"teacher": TEACHER}, remat="dots"), student=STUDENT
    ),
    "adapters": replace(
        rig.make_spec("sft", lora=Lora(4, 12.0, ("q", "o"))), student=STUDENT
    ),
}


def _stepped(spec, sizes=(1, 1, 1), context=1, parts=2):
    """Update of the parameters, and metrics, of a step."""
    devices = jax.devices()[: context * int(np.prod(sizes))]
    mesh = make_mesh(*sizes, devices, context=context)
    batch = put_rows(rig.micro(parts), mesh, lead=1)
    built = rig.build(spec, LINEAR, mesh, parts, batch, quicker())
    state, metrics = built.step(built.fresh(), built.frozen, batch)
    start = rig.start_of(spec)
    moved = jax.tree.map(lambda new, old: new - old, rig.host(state.params), start)
    return moved, {k: float(np.sum(v)) for k, v in metrics.items()}


@lru_cache
def _alone(name):
    return _stepped(SPECS[name])


@pytest.mark.parametrize(
    "name, sizes, context",
    [
        ("full", (1, 2, 2), 1),
        pytest.param("full", (1, 2, 2), 2, marks=pytest.mark.slow),
        pytest.param("full", (1, 4, 1), 1, marks=pytest.mark.slow),
        pytest.param("adapters", (1, 2, 2), 1, marks=pytest.mark.slow),
    ],
)
def test_a_mesh_equals_one_device(name, sizes, context):
    moved, metrics = _stepped(SPECS[name], sizes, context)
    expected, reference = _alone(name)
    rig.assert_close_trees(moved, expected, 400, rig.start_of(SPECS[name]))
    assert metrics == pytest.approx(reference, rel=1e-5, abs=1e-6)
    assert 1 < metrics["router_load"] < 2 and metrics["router_aux"] > 1


def test_the_weight_adds_the_gradient_of_the_auxiliary_loss():
    rows = rig.batch()
    params = rig.params_of(STUDENT)

    @jax.jit
    @jax.value_and_grad
    def auxiliary(params):
        options = {name: rows[name] for name in ("positions", "segment_ids")}
        _, routing = apply_routed(STUDENT, params, rows["tokens"], **options)
        return auxiliary_loss(routing)

    value, gradient = auxiliary(jax.tree.map(jnp.asarray, params))
    base = replace(rig.make_spec("sft"), student=STUDENT)
    without, _ = _stepped(replace(base, router_aux_loss_coef=0.0), parts=1)
    weighted, metrics = _stepped(base, parts=1)
    assert metrics["router_aux"] == pytest.approx(float(value), rel=1e-5)
    added = jax.tree.map(lambda a, b: (a - b) / (-RATE * 0.5), weighted, without)
    # Differences of parameters: their roundings, divided by the same factor.
    floor = jax.tree.map(lambda x: x / (RATE * 0.5), params)
    rig.assert_close_trees(added, gradient, 400, floor)
    assert np.abs(gradient["layers"]["experts"]["router"]).max() > 1e-3


def test_adapters_of_experts_are_refused():
    with pytest.raises(ValueError, match="has gate; .*o, q, v .experts have no"):
        num_adapter_parameters(STUDENT, Lora(2, 4.0, ("q", "gate")))
