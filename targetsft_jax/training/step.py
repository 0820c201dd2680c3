"""Train step: student, teacher and reference in one jitted SPMD program.

    step(state, frozen, batch) -> state, metrics

All models are arguments, sharded by the same rules. Frozen models run under
stop-gradient, and the fused loss reads their hidden states and heads. The loss is a sum
over target tokens divided once by their global number, so accumulation, sharding and
packing change it by rounding only.

Policies that follow the training, such as the old policy of PSFT, are part of the
state (`targets.policies`) and run as frozen models, in the same pass over the data.

With low-rank adapters (`StepSpec.lora`) the state has only the adapters, and the base
of the student is one more frozen argument, `frozen[BASE]`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from targetsft_jax.models import lora
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.training.micro_batch import (
    DROPOUT_KEYS,
    Metrics,
    StepSpec,
    loss_and_metrics,
)
from targetsft_jax.training.optimizer import updates_applied
from targetsft_jax.training.state import Params, TrainState


def make_train_step(
    spec: StepSpec,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    learning_rate: optax.Schedule | None = None,
) -> Callable[[TrainState, Mapping[str, Params], Mapping[str, Array]], Any]:
    """Build the jitted step; it donates its state.

    Args:
        spec: static configuration of the step.
        optimizer: optax transformation.
        mesh: (data, fsdp, context, tensor) mesh.
        shardings: shardings of the old and the new state (`state_shardings`).
        learning_rate: schedule of the optimizer, for the metric; None: no metric.

    Returns:
        (state, frozen, batch) -> (state, metrics), where `frozen` has the parameters
        that `spec.frozen_arguments` names and `batch` has [A, B, L] arrays: A
        micro-batches of B rows. Metrics are [] f32: means over the target tokens of
        the step, `grad_norm` before clipping, `target_tokens`, `tokens` (padding
        excluded), `skipped` (1 if loss or gradient was not finite and the parameters
        did not change), `learning_rate`, and `schedule` (the first scheduled
        hyper-parameter, if any).
    """

    def step(
        state: TrainState, frozen: Mapping[str, Params], batch: Mapping[str, Array]
    ) -> tuple[TrainState, Metrics]:
        policy = spec.method.policy
        targets = jnp.sum(batch["loss_mask"].astype(jnp.float32))
        held = policy.before(state.step, state.params, state.held)
        scheduled = spec.scheduled(state.step + 1)
        if spec.lora is not None and spec.lora.dropout:
            parts, rows, _ = batch["tokens"].shape
            keys = lora.dropout_keys(spec.seed, state.step, (parts, rows))
            batch = {**batch, DROPOUT_KEYS: keys}
        gradients, metrics = _accumulate(
            spec,
            mesh,
            state.params,
            {**frozen, **held},
            batch,
            1 / jnp.maximum(targets, 1),
            scheduled,
        )
        norm = optax.tree.norm(gradients)
        finite = jnp.isfinite(norm) & jnp.isfinite(metrics["loss"])
        updates, moments = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        updated = TrainState(
            state.step + 1, params, moments, policy.after(params, held)
        )
        # A skipped step counts: the refresh of a snapshot depends on the count alone.
        skipped = TrainState(state.step + 1, state.params, state.optimizer, held)
        new_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), updated, skipped)
        if scheduled:
            metrics |= {"schedule": next(iter(scheduled.values()))}
        if learning_rate is not None:
            rate = learning_rate(updates_applied(state.optimizer))
            metrics |= {"learning_rate": jnp.asarray(rate, jnp.float32)}
        return new_state, metrics | {
            "grad_norm": norm,
            "target_tokens": targets,
            "tokens": jnp.sum((batch["segment_ids"] > 0).astype(jnp.float32)),
            "skipped": 1 - finite.astype(jnp.float32),
        }

    # Without output shardings the second step would compile again.
    return jax.jit(
        step, donate_argnums=0, out_shardings=(shardings, meshes.replicated(mesh))
    )


def _accumulate(
    spec: StepSpec,
    mesh: Mesh,
    params: Params,
    frozen: Mapping[str, Params],
    batch: Mapping[str, Array],
    scale: Array,
    scheduled: Mapping[str, Array],
) -> tuple[Params, Metrics]:
    """Sum gradients and metrics in f32 over the micro-batches [A, ...]."""

    def one(micro: Mapping[str, Array]) -> tuple[Params, Metrics]:
        def loss(params: Params) -> tuple[Array, Metrics]:
            return loss_and_metrics(spec, mesh, params, frozen, micro, scale, scheduled)

        gradients, metrics = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda g: g.astype(jnp.float32), gradients), metrics

    if batch["tokens"].shape[0] == 1:
        return one({name: x[0] for name, x in batch.items()})

    def add(total: Any, micro: Mapping[str, Array]) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, one(micro)), None

    # Starting from zeros instead of the first micro-batch halves the program.
    first = {name: x[0] for name, x in batch.items()}
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(one, first)
    )
    return jax.lax.scan(add, zeros, batch)[0]
