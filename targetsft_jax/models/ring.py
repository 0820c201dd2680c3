"""KV cache of a layer: a ring of slots, which all rows of a batch write together.

In step n every row writes slot n mod S, whatever its position: positions are in the
rotated keys, and a slot's age, the steps since it was written, bounds what a row may
see. Rows can therefore start at different steps, and a layer with a window needs no
more slots than the window has tokens.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from targetsft_jax.models.config import DecoderConfig

LayerCache = tuple[jax.Array, jax.Array]
"""Rotated keys [R, kv_heads, head_dim, S] and values [R, kv_heads, S, head_dim].

Features before slots in the keys, so that scores are vectorized over slots: on a CPU a
step takes two thirds of the time of the other order.
"""


def layer_slots(config: DecoderConfig, slots: int) -> tuple[int, ...]:
    """Slots of each layer: `slots`, or its window where that is smaller."""
    return tuple(min(slots, window or slots) for window in config.windows)


def empty_cache(
    config: DecoderConfig, rows: int, slots: int, dtype: DTypeLike = jnp.float32
) -> tuple[LayerCache, ...]:
    """Cache of zeros for every layer, of `slots` tokens per row."""
    heads, size = config.num_kv_heads, config.head_dim
    return tuple(
        (
            jnp.zeros((rows, heads, size, length), dtype),
            jnp.zeros((rows, heads, length, size), dtype),
        )
        for length in layer_slots(config, slots)
    )


def write(
    cache: LayerCache, key: jax.Array, value: jax.Array, step: jax.Array
) -> LayerCache:
    """Write one token per row.

    Args:
        cache: of one layer.
        key, value: [R, kv_heads, head_dim].
        step: [] int32, steps before this one.
    """
    zero = jnp.zeros((), jnp.int32)
    slot = step % cache[1].shape[2]
    new_key = key[..., None].astype(cache[0].dtype)
    new_value = value[:, :, None].astype(cache[1].dtype)
    return (
        jax.lax.dynamic_update_slice(cache[0], new_key, (zero, zero, zero, slot)),
        jax.lax.dynamic_update_slice(cache[1], new_value, (zero, zero, slot, zero)),
    )


def is_visible(slots: int, positions: jax.Array, step: jax.Array) -> jax.Array:
    """True for slots with a token of the row, [R, slots] bool.

    Args:
        slots: S of the layer. With a window, S is at most the window, so that all slots
            are within it.
        positions: [R] int32, tokens of each row before the newest.
        step: [] int32, that of the newest token, whose slot has the age 0.
    """
    age = (step - jnp.arange(slots, dtype=jnp.int32)) % slots
    return age[None] <= positions[:, None]


def prompt_cache(
    key: jax.Array, value: jax.Array, slots: int, step: jax.Array
) -> LayerCache:
    """Cache of one layer before step `step`, from prompts padded on the left.

    Args:
        key, value: [R, L, kv_heads, head_dim], from `decoder.apply_prompts`.
        slots: S of the layer.
        step: [] int32.
    """
    return (
        laid_out(key.transpose(0, 2, 3, 1), 3, slots, step),
        laid_out(value.transpose(0, 2, 1, 3), 2, slots, step),
    )


def laid_out(x: jax.Array, axis: int, slots: int, step: jax.Array) -> jax.Array:
    """Tokens in order along an axis, laid out in a ring of `slots` before step `step`.

    The newest token is in the slot of step `step - 1`; the oldest are dropped if there
    are more tokens than slots, and slots before the oldest are zero.
    """
    excess = x.shape[axis] - slots
    if excess > 0:
        x = jax.lax.slice_in_dim(x, excess, x.shape[axis], axis=axis)
    elif excess < 0:
        before = [(0, 0)] * x.ndim
        before[axis] = (-excess, 0)
        x = jnp.pad(x, before)
    return jnp.roll(x, step % slots, axis)


def resized(x: jax.Array, axis: int, slots: int, step: jax.Array) -> jax.Array:
    """A ring before step `step` with more slots, or with fewer: the newest tokens."""
    in_order = jnp.roll(x, -(step % x.shape[axis]), axis)
    return laid_out(in_order, axis, slots, step)
