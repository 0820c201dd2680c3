"""Train state: optimizer step, parameters, moments and parameters of the policy."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from targetsft_jax.models import decoder, lora
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.lora import Lora
from targetsft_jax.parallel import mesh as meshes
from targetsft_jax.parallel import rules
from targetsft_jax.targets.policies import FROM_DATA, Held, Policy

Params = dict[str, Any]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """State that a train step updates.

    Attributes:
        step: optimizer steps taken, [] i32.
        params: trained parameters.
        optimizer: optax state, moments in f32.
        held: snapshots and averages of the policy by name; empty for most methods.
    """

    step: Array
    params: Params
    optimizer: Any
    held: Held = field(default_factory=dict)


def init_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    policy: Policy = FROM_DATA,
) -> TrainState:
    """Create the state at step 0, placed by `shardings`.

    Args:
        params: initial parameters.
        optimizer: optax transformation.
        shardings: result of `state_shardings`.
        policy: policy whose parameters are part of the state.
    """
    params = jax.device_put(params, shardings.params)
    moments = jax.jit(optimizer.init, out_shardings=shardings.optimizer)(params)
    step = jax.device_put(jnp.zeros((), jnp.int32), shardings.step)
    held = jax.jit(policy.start, out_shardings=shardings.held)(params)
    return TrainState(step, params, moments, held)


def abstract_state(
    params: Any,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
    policy: Policy = FROM_DATA,
) -> TrainState:
    """Describe the result of `init_state` by shapes, dtypes and shardings.

    Args:
        params: parameters, or their shapes.
        optimizer, shardings, policy: see `init_state`.
    """
    step: Any = jax.ShapeDtypeStruct((), jnp.int32)
    shapes = TrainState(
        step,
        params,
        jax.eval_shape(optimizer.init, params),
        jax.eval_shape(policy.start, params),
    )
    return with_shardings(shapes, shardings)


def with_shardings(shapes: Any, shardings: Any) -> Any:
    """Attach shardings to a tree of shapes: a tree of `ShapeDtypeStruct`s."""
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def state_shardings(
    config: DecoderConfig,
    params: Any,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    adapters: Lora | None = None,
    policy: Policy = FROM_DATA,
) -> TrainState:
    """Derive the sharding of every array of the state.

    Args:
        config: architecture of the student.
        params: trained parameters, the student's or the adapters'; shapes suffice.
        optimizer: optax transformation; moments are sharded like their parameters.
        mesh: device mesh.
        adapters: trained adapters; None: the student is trained.
        policy: policy; its parameters are sharded like the trained ones.
    """
    axes = (
        decoder.logical_axes(config)
        if adapters is None
        else lora.logical_axes(config, adapters)
    )
    params_shardings = rules.shardings(axes, params, mesh)
    replicated = meshes.replicated(mesh)
    moments_shardings = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, params),
        params_shardings,
        transform_non_params=lambda _: replicated,
    )
    held = dict.fromkeys(policy.held, params_shardings)
    shardings: Any = (replicated, params_shardings, moments_shardings, held)
    return TrainState(*shardings)


def arrays_of(state: TrainState) -> dict[str, Any]:
    """Convert the state to the plain trees of a checkpoint."""
    optimizer = {"step": state.step, "moments": state.optimizer}
    if state.held:
        optimizer["held"] = state.held
    return {"params": state.params, "optimizer": optimizer}


def state_of(arrays: dict[str, Any]) -> TrainState:
    """Convert the plain trees of a checkpoint to the state; inverse of `arrays_of`."""
    optimizer = arrays["optimizer"]
    return TrainState(
        optimizer["step"],
        arrays["params"],
        optimizer["moments"],
        optimizer.get("held", {}),
    )
