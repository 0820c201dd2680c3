"""Causal attention within segments, over the sequence itself or over a cache."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layers import Projection, rotate


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, in the order they were fed.

    Slots, not positions, order the cache: call number two writes behind call number
    one in every row, and padding occupies slots that no real token attends to. So
    left-padded and right-padded prompts of different lengths need nothing special.

    Attributes:
        layers: per layer (key, value), each [B, kv_heads, S, head_dim], keys rotated.
        segment_ids: [B, S] int32; 0 in padding and in slots not yet written.
        used: [] int32, slots written so far, the same in every row.
    """

    layers: tuple[tuple[jax.Array, jax.Array], ...]
    segment_ids: jax.Array
    used: jax.Array


class Span(NamedTuple):
    """Which tokens are being computed, and which they may look at.

    Attributes:
        segment_ids: [B, T] int32 of the computed tokens.
        key_segment_ids: [B, S] int32 of everything there is to attend to.
        start: [] int32, the slot of the first computed token among the S.
        rotation: cosine and sine [B, T, head_dim / 2] f32 of the computed tokens.
    """

    segment_ids: jax.Array
    key_segment_ids: jax.Array
    start: jax.Array
    rotation: tuple[jax.Array, jax.Array]


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array,
    key_segment_ids: jax.Array,
    start: jax.Array,
) -> jax.Array:
    """Grouped-query attention, causal by slot, only within equal segment ids.

    Query i sits in slot `start + i` and attends to slots j <= start + i of its own
    segment. Padding is segment 0 and attends to padding, itself at least, so no row
    of the softmax is ever empty and nothing is NaN. Softmax is in float32.

    The portable path, for training without a kernel (see `kernels`) and for prompts:
    it builds the [B, 1, T, S] boolean mask, so its memory grows with T * S.

    Args:
        query: [B, T, heads, head_dim].
        key: [B, S, kv_heads, head_dim].
        value: [B, S, kv_heads, head_dim].
        segment_ids: [B, T] int32 of the queries.
        key_segment_ids: [B, S] int32.
        start: [] int32.

    Returns:
        [B, T, heads, head_dim], dtype of the query.
    """
    query_slots = start + jnp.arange(query.shape[1], dtype=jnp.int32)
    key_slots = jnp.arange(key.shape[1], dtype=jnp.int32)
    causal = key_slots[None, :] <= query_slots[:, None]  # [T, S]
    same = segment_ids[:, :, None] == key_segment_ids[:, None, :]  # [B, T, S]
    mask = (same & causal[None])[:, None]
    return jax.nn.dot_product_attention(query, key, value, mask=mask)


def attend_one(query: jax.Array, kept: tuple[jax.Array, jax.Array], span: Span):
    """`attend` for the newest token of each row, over a layer's cache.

    One query a head is no matrix product: as multiply and sum it reads the cache once
    and XLA fuses it, which on a CPU takes a fifth of the time of the batched dot.

    Args:
        query: [B, 1, heads, head_dim].
        kept: key and value [B, kv_heads, S, head_dim].
        span: T = 1; every written slot is at or before the query's.

    Returns:
        [B, 1, heads, head_dim], dtype of the query.
    """
    key, value = (x.astype(jnp.float32)[:, :, None] for x in kept)  # [B, K, 1, S, d]
    batch, kv_heads, _, _, size = key.shape
    grouped = query.astype(jnp.float32).reshape(batch, kv_heads, -1, 1, size)
    scores = jnp.sum(grouped * key, axis=-1) / size**0.5  # [B, K, G, S]
    same = span.segment_ids == span.key_segment_ids  # [B, S]
    # Finite, not -inf: a row that has ended may match no slot written so far.
    scores = jnp.where(same[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.sum(weights[..., None] * value, axis=-2)  # [B, K, G, d]
    return mixed.reshape(query.shape).astype(query.dtype)


class Attention(nn.Module):
    """Self-attention with rotary positions; reads and extends a cache when given."""

    config: DecoderConfig
    kernel_init: Callable
    output_init: Callable
    param_dtype: jnp.dtype
    attend: Callable | None = None

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        span: Span,
        kept: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        config = self.config

        def heads(count, name):
            width = count * config.head_dim
            project = Projection(
                width, config.qkv_bias, self.kernel_init, self.param_dtype, name=name
            )
            return project(x).reshape(*x.shape[:-1], count, config.head_dim)

        query = rotate(heads(config.num_heads, "q"), span.rotation)
        key = rotate(heads(config.num_kv_heads, "k"), span.rotation)
        value = heads(config.num_kv_heads, "v")
        if kept is not None:
            kept = (_put(kept[0], key, span.start), _put(kept[1], value, span.start))
            key, value = (jnp.swapaxes(x, 1, 2).astype(query.dtype) for x in kept)
        if kept is not None and x.shape[1] == 1:
            mixed = attend_one(query, kept, span)
        elif kept is None and self.attend is not None:
            mixed = self.attend(query, key, value, span.segment_ids)
        else:
            mixed = attend(
                query,
                key,
                value,
                segment_ids=span.segment_ids,
                key_segment_ids=span.key_segment_ids,
                start=span.start,
            )
        mixed = mixed.reshape(*x.shape[:-1], config.num_heads * config.head_dim)
        output = Projection(
            config.hidden_size, False, self.output_init, self.param_dtype, name="o"
        )
        return output(mixed), kept


def _put(kept, new, start):
    """[B, K, S, d] with the new [B, T, K, d] from slot `start` on."""
    zero = jnp.zeros((), jnp.int32)
    new = jnp.swapaxes(new, 1, 2).astype(kept.dtype)
    return jax.lax.dynamic_update_slice(kept, new, (zero, zero, start, zero))
