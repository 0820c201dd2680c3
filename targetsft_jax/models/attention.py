"""Causal attention within segments, over the sequence itself or over a cache."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layers import Projection, rms_norm, soft_cap
from targetsft_jax.models.rope import Rotation, rotate


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
        rotation: cosine and sine [B, T, rotary_dim / 2] f32 of the computed tokens.
        local_rotation: the same in layers with a window; None where it is the same.
        places: numbers [B, T] of the computed tokens and [B, S] of all, int32, whose
            differences windows are measured by; slots when None.
    """

    segment_ids: jax.Array
    key_segment_ids: jax.Array
    start: jax.Array
    rotation: Rotation
    local_rotation: Rotation | None = None
    places: tuple[jax.Array, jax.Array] | None = None


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array,
    key_segment_ids: jax.Array,
    start: jax.Array,
    window: jax.Array | int | None = None,
    places: tuple[jax.Array, jax.Array] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
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
        window: a query looks at itself and the window - 1 before it; at all when None.
        places: as in `Span`.
        scale: of the scores; head_dim ** -0.5 when None.
        softcap: scores become cap * tanh(score / cap).

    Returns:
        [B, T, heads, head_dim], dtype of the query.
    """
    query_slots = start + jnp.arange(query.shape[1], dtype=jnp.int32)
    key_slots = jnp.arange(key.shape[1], dtype=jnp.int32)
    causal = key_slots[None, :] <= query_slots[:, None]  # [T, S]
    same = segment_ids[:, :, None] == key_segment_ids[:, None, :]  # [B, T, S]
    seen = same & causal[None]
    if window is not None:
        own, others = places or (query_slots[None], key_slots[None])
        near = own[:, :, None] - others[:, None, :] < window
        # Padding all has one place: it sees itself by its slot.
        seen &= near | (key_slots[None, :] == query_slots[:, None])[None]
    mask = seen[:, None]
    if softcap is None:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    return _attend_capped(query, key, value, mask, scale, softcap)


def _attend_capped(query, key, value, mask, scale, cap):
    """jax's own attention with a soft cap between scores and mask."""
    batch, length, _, size = query.shape
    grouped = query.reshape(batch, length, key.shape[2], -1, size)
    scores = jnp.einsum(
        "btkgd,bskd->bkgts", grouped, key, preferred_element_type=jnp.float32
    )
    scores = soft_cap(scores * (size**-0.5 if scale is None else scale), cap)
    scores = jnp.where(mask[:, None], scores, 0.7 * jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(key.dtype)
    return jnp.einsum("bkgts,bskd->btkgd", weights, value).reshape(query.shape)


def attend_one(
    query: jax.Array,
    kept: tuple[jax.Array, jax.Array],
    span: Span,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """`attend` for the newest token of each row, over a layer's cache.

    One query a head is no matrix product: as multiply and sum it reads the cache once
    and XLA fuses it, which on a CPU takes a fifth of the time of the batched dot.

    Args:
        query: [B, 1, heads, head_dim].
        kept: key and value [B, kv_heads, S, head_dim].
        span: T = 1; every written slot is at or before the query's.
        window, scale, softcap: as in `attend`.

    Returns:
        [B, 1, heads, head_dim], dtype of the query.
    """
    key, value = (x.astype(jnp.float32)[:, :, None] for x in kept)  # [B, K, 1, S, d]
    batch, kv_heads, _, _, size = key.shape
    grouped = query.astype(jnp.float32).reshape(batch, kv_heads, -1, 1, size)
    scale = size**-0.5 if scale is None else scale
    scores = soft_cap(jnp.sum(grouped * key, axis=-1) * scale, softcap)  # [B, K, G, S]
    seen = span.segment_ids == span.key_segment_ids  # [B, S]
    if window is not None and span.places is not None:
        own, others = span.places
        seen &= own - others < window
    # Finite, not -inf: a row that has ended may match no slot written so far.
    scores = jnp.where(seen[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1)
    mixed = jnp.sum(weights[..., None] * value, axis=-2)  # [B, K, G, d]
    return mixed.reshape(query.shape).astype(query.dtype)


class Attention(nn.Module):
    """Self-attention with rotary positions; reads and extends a cache when given.

    `local` says whether the config's window holds in this layer: a bool, [] bool where
    the scanned layers alternate, or None where they are all alike.
    """

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
        local: jax.Array | bool | None = None,
        kept: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
        config = self.config
        if local is None:
            local = config.sliding_window is not None
        rotation = span.rotation
        if span.local_rotation is not None:
            rotation = _pick(local, span.local_rotation, rotation)

        def heads(count, name):
            width = count * config.head_dim
            project = Projection(
                width, config.qkv_bias, self.kernel_init, self.param_dtype, name=name
            )
            return project(x).reshape(*x.shape[:-1], count, config.head_dim)

        query = rotate(self._normed(heads(config.num_heads, "q"), "q_norm"), rotation)
        key = rotate(self._normed(heads(config.num_kv_heads, "k"), "k_norm"), rotation)
        value = heads(config.num_kv_heads, "v")
        if kept is not None:
            kept = (_put(kept[0], key, span.start), _put(kept[1], value, span.start))
        mixed = self._mixed(query, key, value, span, local, kept)
        mixed = mixed.reshape(*x.shape[:-1], config.num_heads * config.head_dim)
        output = Projection(
            config.hidden_size,
            config.o_bias,
            self.output_init,
            self.param_dtype,
            name="o",
        )
        return output(mixed), kept

    def _normed(self, x, name):
        config = self.config
        if not config.qk_norm:
            return x
        init = norm_init(config)
        scale = self.param(name, init, (config.head_dim,), self.param_dtype)
        return rms_norm(x, scale, config.rms_norm_eps, config.unit_offset)

    def _mixed(self, query, key, value, span, local, kept):
        config = self.config
        how = {"scale": config.score_scale, "softcap": config.attn_logit_softcap}
        # A window as long as all there is to see is none.
        length = span.key_segment_ids.shape[1]
        size = config.sliding_window
        if local is False or (size is not None and size >= length):
            size = None
        static = isinstance(local, bool) or size is None
        if kept is not None and query.shape[1] == 1:
            return attend_one(query, kept, span, window=size, **how)
        if kept is not None:
            key, value = (jnp.swapaxes(x, 1, 2).astype(query.dtype) for x in kept)
        if kept is not None or self.attend is None:
            return attend(
                query,
                key,
                value,
                segment_ids=span.segment_ids,
                key_segment_ids=span.key_segment_ids,
                start=span.start,
                window=size if static else jnp.where(local, size, length),
                places=span.places,
                **how,
            )

        def run(window):
            return lambda q, k, v: self.attend(
                q, k, v, span.segment_ids, window=window, **how
            )

        if static:
            return run(size)(query, key, value)
        # A kernel is made for its window: both are there, and one of them runs.
        return jax.lax.cond(local, run(size), run(None), query, key, value)


def norm_init(config: DecoderConfig) -> Callable:
    """A norm's parameter at the start, where the norm multiplies by one."""
    init = nn.initializers
    return init.zeros_init() if config.unit_offset else init.ones_init()


def _pick(local, here, there):
    """Of a layer with a window, or of one without."""
    if isinstance(local, bool):
        return here if local else there
    return jax.tree.map(lambda a, b: jnp.where(local, a, b), here, there)


def _put(kept, new, start):
    """[B, K, S, d] with the new [B, T, K, d] from slot `start` on."""
    zero = jnp.zeros((), jnp.int32)
    new = jnp.swapaxes(new, 1, 2).astype(kept.dtype)
    return jax.lax.dynamic_update_slice(kept, new, (zero, zero, start, zero))
