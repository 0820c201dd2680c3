"""LoRA step against a full model with kernels W + s·A·B and dense logits."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import rig
from support.quick import quicker

from targetsft_jax.loss import reference_loss
from targetsft_jax.models import decoder
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel.mesh import make_mesh
from targetsft_jax.training.micro_batch import BASE

RATE = 0.1
LINEAR = optax.sgd(RATE)
TARGETS = ("q", "k", "v", "o", "gate", "up", "down")
LORA = Lora(rank=4, alpha=12.0, targets=TARGETS)
# As in test_step: sums of a few hundred float32 products in another order.
ROUNDINGS = 200


def _spec(method, lora=LORA, **changes):
    on_base = ("reference",) if method == "asft" else ()
    return rig.make_spec(method, lora=lora, on_base=on_base, **changes)


def _merged(base, adapters, scale):
    """Full parameters with W + s·A·B, independent of `models.lora`."""
    if "lora_a" in adapters:
        product = jnp.einsum("lir,lro->lio", adapters["lora_a"], adapters["lora_b"])
        return {**base, "kernel": base["kernel"] + scale * product}
    changed = {k: _merged(base[k], x, scale) for k, x in adapters.items()}
    return {**base, **changed}


@lru_cache
def _pull(method, lora):
    """(adapters, scale) -> dense loss of the merged model, and its gradient."""
    spec = _spec(method, lora)
    frozen = rig.frozen_of(spec)
    base = rig.params_of(rig.STUDENT)

    def model(config, params):
        rows = rig.batch()
        hidden = decoder.apply(
            config,
            params,
            rows["tokens"],
            positions=rows["positions"],
            segment_ids=rows["segment_ids"],
        )
        return hidden, decoder.head(params)[: rig.VOCABULARY]

    def value(adapters, scale):
        mask = rig.batch()["loss_mask"].astype(np.float32)
        models = {
            role: model(config, base if role == "reference" else frozen[role])
            for role, config in spec.frozen.items()
        }
        return reference_loss(
            spec.method.method,
            *model(spec.student, _merged(base, adapters, scale)),
            rig.batch()["labels"],
            weights=mask / mask.sum(),
            **models,
            **spec.method.hyper,
        )

    return jax.jit(jax.value_and_grad(value), compiler_options=quicker())


def _reference(method, lora=LORA, wrong=1.0):
    adapters = rig.adapters_of(rig.STUDENT, lora)
    scale = wrong * lora.alpha / lora.rank
    return jax.device_get(_pull(method, lora)(adapters, scale))


def _assert_follows(method, lora=LORA, sizes=None, parts=1, remat="none"):
    loss, gradient = _reference(method, lora)
    spec = _spec(method, lora, remat=remat)
    mesh = sizes and make_mesh(*sizes)
    built = rig.build(spec, LINEAR, mesh, parts, options=quicker())
    state, metrics = built.step(built.fresh(), built.frozen, rig.micro(parts))
    np.testing.assert_allclose(metrics["loss"], loss, rtol=2e-6)
    start = rig.start_of(spec)
    moved = jax.tree.map(lambda a, b: (a - b) / -RATE, rig.host(state.params), start)
    floor = jax.tree.map(lambda p: p / RATE, start)
    rig.assert_close_trees(moved, gradient, ROUNDINGS, floor)
    assert all(np.any(g) for g in jax.tree.leaves(gradient))
    # The base is neither donated with the state nor changed.
    rig.assert_equal_trees(rig.host(built.frozen[BASE]), rig.params_of(rig.STUDENT))


@pytest.mark.sweep(1)
@pytest.mark.parametrize("method", ["sft", "target_sft", "asft"])
def test_loss_and_gradients_equal_those_of_merged_kernels(method: str):
    _assert_follows(method)


def test_a_subset_of_targets():
    """Control: a scale that is wrong by 0.2 % is detected."""
    some = Lora(rank=2, alpha=5.0, targets=("v", "down"))
    _assert_follows("target_sft", some)
    adapters = rig.adapters_of(rig.STUDENT, some)
    assert set(adapters["layers"]["attention"]) == {"v"}
    assert set(adapters["layers"]["mlp"]) == {"down"}
    loss, gradient = _reference("target_sft", some)
    other, wrong = _reference("target_sft", some, wrong=1.002)
    assert abs(loss - other) > 1e-5
    with pytest.raises(AssertionError):
        rig.assert_close_trees(wrong, gradient, ROUNDINGS)


@pytest.mark.sweep(1)
@pytest.mark.parametrize(
    "sizes, parts, remat",
    [((1, 1, 8), 1, "dots"), ((2, 2, 2), 2, "full")],
    ids=str,
)
def test_any_mesh_with_micro_batches_and_recomputation(sizes, parts, remat):
    _assert_follows("target_sft", LORA, sizes, parts, remat)
