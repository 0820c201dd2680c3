"""The train state: optimizer step, parameters, moments and snapshots of policies."""

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
    """All that training changes.

    Attributes:
        step: optimizer steps taken, [] i32.
        params: the parameters that are trained.
        optimizer: the state of the optimizer, moments in f32.
        held: parameters of the policy by name; empty for most methods.
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
    """The state at step 0 on its shardings; moments lie as their parameters do."""
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
    """Shapes, dtypes and shardings of the state that `init_state` makes.

    Args:
        params: parameters, or their shapes.
        optimizer, shardings, policy: as for `init_state`.
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
    """A tree of shapes as `ShapeDtypeStruct`s with their shardings."""
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
    """A sharding for every array of the state.

    Args:
        config: the student.
        params: what is trained, the student or its adapters; shapes suffice.
        optimizer: its moments are sharded as their parameters.
        mesh: the device mesh.
        adapters: the adapters, where they are trained.
        policy: its parameters are sharded as those that are trained.
    """
    axes = (
        decoder.logical_axes(config)
        if adapters is None
        else lora.logical_axes(config, adapters)
    )
    of_params = rules.shardings(axes, params, mesh)
    replicated = meshes.replicated(mesh)
    of_moments = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, params),
        of_params,
        transform_non_params=lambda _: replicated,
    )
    held = dict.fromkeys(policy.held, of_params)
    return TrainState(replicated, of_params, of_moments, held)  # type: ignore[arg-type]


def arrays_of(state: TrainState) -> dict[str, Any]:
    """The state as the plain trees that a checkpoint stores."""
    optimizer = {"step": state.step, "moments": state.optimizer}
    if state.held:
        optimizer["held"] = state.held
    return {"params": state.params, "optimizer": optimizer}


def state_of(arrays: dict[str, Any]) -> TrainState:
    """The state of a checkpoint's plain trees; inverse of `arrays_of`."""
    optimizer = arrays["optimizer"]
    return TrainState(
        optimizer["step"],
        arrays["params"],
        optimizer["moments"],
        optimizer.get("held", {}),
    )
