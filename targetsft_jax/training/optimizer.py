"""AdamW with warm-up, cosine decay and clipping, as an optax chain."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from targetsft_jax.config.schema import TrainConfig


def learning_rate(config: TrainConfig, steps: int) -> optax.Schedule:
    """Linear warm-up, then cosine decay; a function of the 0-based step.

        w = max(1, ⌈warmup_ratio · steps⌉)
        i < w: (i + 1) / w of the peak
        i ≥ w: cosine of (i + 1 − w) / (steps + 1 − w), from the peak to the final rate

    No step has a rate of 0, which would train nothing: neither the first one, as in
    transformers, nor the last one.
    """
    warmup = max(1, math.ceil(config.warmup_ratio * steps))
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=config.learning_rate,
        warmup_steps=warmup,
        decay_steps=steps + 1,
        end_value=config.learning_rate * config.final_learning_rate_ratio,
    )
    return lambda count: schedule(count + 1)


def make_optimizer(config: TrainConfig, steps: int) -> optax.GradientTransformation:
    """Clip by the global norm, then AdamW; no decay for norms and biases.

    Args:
        config: rates, decays and `clip_norm`; 0 disables clipping.
        steps: optimizer steps of the schedule.
    """
    adamw = optax.adamw(
        learning_rate(config, steps),
        b1=config.beta1,
        b2=config.beta2,
        weight_decay=config.weight_decay,
        mask=_decays,
    )
    if not config.clip_norm:
        return _with_f32_moments(adamw)
    return _with_f32_moments(
        optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    )


def updates_applied(state: Any) -> jax.Array:
    """Number of updates of an optimizer so far, which its schedule reads: [] int32.

    Skipped steps are not counted, so that it may be less than the number of steps.
    """
    kind = optax.ScaleByScheduleState
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kind))
    return next(part.count for part in parts if isinstance(part, kind))


def _with_f32_moments(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """Keep all moments in f32; optax gives them the dtype of the parameters.

    In bf16 a second moment stalls: updates by 1 − β₂ are below its rounding.
    """

    def init(params: Any) -> Any:
        return optimizer.init(jax.tree.map(lambda p: p.astype(jnp.float32), params))

    return optax.GradientTransformation(init, optimizer.update)


def _decays(params: Any) -> Any:
    """Mask of decayed parameters, by name: scanned norms have two dimensions too."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any("norm" in k.key or k.key == "bias" for k in path),
        params,
    )
