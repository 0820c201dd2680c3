"""Causal grouped-query attention within segments, over a sequence or a KV cache."""

from functools import partial
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.nn.initializers import Initializer

from targetsft_jax.models import ring
from targetsft_jax.models.config import DecoderConfig
from targetsft_jax.models.layers import Projection, rms_norm, soft_cap
from targetsft_jax.models.products import Multiply
from targetsft_jax.models.remat import ATTENTION, ATTENTION_IN, ATTENTION_OUT
from targetsft_jax.models.ring import LayerCache
from targetsft_jax.models.rope import Rotation, no_rotation, rotate
from targetsft_jax.models.unstacked import QKV

PROMPT_KV = "prompt_kv"
"""Collection in which a forward pass leaves keys and values, where it is mutable."""


class SelfAttention(Protocol):
    """Self-attention of packed rows: the signature of all kernels (see `kernels`)."""

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        segment_ids: jax.Array,
        *,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ) -> jax.Array:
        """Attention output [B, T, H, d].

        Args:
            query: [B, T, H, d].
            key, value: [B, T, K, d].
            segment_ids: [B, T] int32.
            window: a query attends to itself and the window - 1 tokens before it;
                None for all.
            scale: factor of the scores; None for d ** -0.5.
            softcap: scores become cap * tanh(score / cap); None for no cap.
        """
        ...


class TokenSpan(NamedTuple):
    """One token per row, with a KV cache of the tokens before it.

    Attributes:
        positions: [R] int32, tokens of each row before it.
        step: [] int32, steps of the cache before this one (see `ring`).
        rotation: cosine and sine [R, 1, rotary_dim / 2] f32.
        local_rotation: the same for layers with a window; None where it is equal.
        query_scale: factor [R, 1, 1, 1] f32 of the queries; None for 1.
    """

    positions: jax.Array
    step: jax.Array
    rotation: Rotation
    local_rotation: Rotation | None = None
    query_scale: jax.Array | None = None


class AttentionSpan(NamedTuple):
    """The tokens of one call, and the tokens that they may attend to.

    Attributes:
        segment_ids: [B, T] int32 of this call's tokens.
        key_segment_ids: [B, S] int32 of all keys.
        start: [] int32, slot of this call's first token among the S.
        rotation: cosine and sine [B, T, rotary_dim / 2] f32 of this call's tokens.
        local_rotation: the same for layers with a window; None where it is equal.
        positions: [B, T] int32 of this call's tokens and [B, S] of all keys. Windows
            are measured by their differences; None measures by slots.
        query_scale: factor [B, T, 1, 1] f32 of the queries; None for 1.
    """

    segment_ids: jax.Array
    key_segment_ids: jax.Array
    start: jax.Array
    rotation: Rotation
    local_rotation: Rotation | None = None
    positions: tuple[jax.Array, jax.Array] | None = None
    query_scale: jax.Array | None = None


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    segment_ids: jax.Array,
    key_segment_ids: jax.Array,
    start: jax.Array,
    window: jax.Array | int | None = None,
    positions: tuple[jax.Array, jax.Array] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """Grouped-query attention, causal by slot, only within equal segment ids.

    A query in slot i attends to slots j <= i of its own segment. Padding is segment 0
    and attends to padding, at least to itself, so no row of the softmax is empty and no
    result is NaN. The softmax is in float32.

    This is the portable path, for training without a kernel (see `kernels`) and for
    prompts. It builds the boolean mask [B, 1, T, S], so memory grows with T * S.

    Args:
        query: [B, T, heads, head_dim].
        key: [B, S, kv_heads, head_dim].
        value: [B, S, kv_heads, head_dim].
        segment_ids: [B, T] int32 of the queries.
        key_segment_ids: [B, S] int32.
        start: slot of the first query, [] int32, or the slots of all of them, [T]
            int32; keys are in the order of their slots.
        window: a query attends to itself and the window - 1 tokens before it; None for
            all.
        positions: as in `AttentionSpan`.
        scale: factor of the scores; None for head_dim ** -0.5.
        softcap: scores become cap * tanh(score / cap).

    Returns:
        [B, T, heads, head_dim], dtype of the query.
    """
    query_slots = start
    if start.ndim == 0:
        query_slots = start + jnp.arange(query.shape[1], dtype=jnp.int32)
    key_slots = jnp.arange(key.shape[1], dtype=jnp.int32)
    causal = key_slots[None, :] <= query_slots[:, None]  # [T, S]
    same_segment = segment_ids[:, :, None] == key_segment_ids[:, None, :]  # [B, T, S]
    visible = same_segment & causal[None]
    if window is not None:
        query_positions, key_positions = positions or (
            query_slots[None],
            key_slots[None],
        )
        near = query_positions[:, :, None] - key_positions[:, None, :] < window
        # Padding attends at least to its own slot: no row of the mask is empty.
        visible &= near | (key_slots[None, :] == query_slots[:, None])[None]
    mask = visible[:, None]
    if softcap is None:
        return jax.nn.dot_product_attention(query, key, value, mask=mask, scale=scale)
    return _attend_capped(query, key, value, mask, scale, softcap)


def _attend_capped(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    scale: float | None,
    cap: float,
) -> jax.Array:
    """`jax.nn.dot_product_attention` with a soft cap between scores and mask."""
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
    cache: LayerCache,
    span: TokenSpan,
    *,
    scale: float | None = None,
    softcap: float | None = None,
) -> jax.Array:
    """`attend` for the newest token of each row, over a layer's cache.

    Args:
        query: [R, 1, heads, head_dim].
        cache: of one layer, with the newest token. The slots of a layer with a window
            are within it.
        span: the newest tokens.
        scale, softcap: as in `attend`.

    Returns:
        [R, 1, heads, head_dim], dtype of the query.
    """
    key, value = cache
    rows, kv_heads, slots, size = value.shape
    grouped = query.reshape(rows, kv_heads, -1, size)
    scale = size**-0.5 if scale is None else scale
    scores = jnp.einsum(
        "rkgd,rkds->rkgs",
        grouped,
        key.astype(query.dtype),
        preferred_element_type=jnp.float32,
    )
    visible = ring.is_visible(slots, span.positions, span.step)[:, None, None]
    # Every row sees its newest token, so that no maximum is -inf.
    scores = jnp.where(visible, soft_cap(scores * scale, softcap), -jnp.inf)
    weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    mixed = jnp.einsum(
        "rkgs,rksd->rkgd",
        weights.astype(query.dtype),
        value.astype(query.dtype),
        preferred_element_type=jnp.float32,
    )
    # Divided after the product, which has fewer elements than the weights.
    mixed = mixed / jnp.sum(weights, axis=-1, keepdims=True)
    return mixed.reshape(query.shape).astype(query.dtype)


def require_plain(name: str, window: int | None, softcap: float | None) -> None:
    """Refuse a window or a soft cap, for kernels with neither.

    Raises:
        ValueError: names the kernel and both values.
    """
    if window is not None or softcap is not None:
        raise ValueError(
            f"attention kernel {name} has neither windows nor soft caps; window is "
            f"{window} and softcap is {softcap}"
        )


class Attention(nn.Module):
    """Self-attention with rotary position embeddings, optionally over a KV cache.

    `is_windowed` is True if the config's window applies in this layer: a bool, a []
    bool array if the scanned layers alternate, or None if all layers are alike.
    `is_rotated` is True if its queries and keys rotate, likewise.
    """

    config: DecoderConfig
    kernel_init: Initializer
    output_init: Initializer
    param_dtype: jnp.dtype
    attend: SelfAttention | None = None
    multiply: Multiply = jnp.matmul

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        span: AttentionSpan | TokenSpan,
        is_windowed: jax.Array | bool | None = None,
        is_rotated: jax.Array | bool | None = None,
        cache: LayerCache | None = None,
    ) -> tuple[jax.Array, LayerCache | None]:
        config = self.config
        if is_windowed is None:
            is_windowed = config.sliding_window is not None
        rotation = span.rotation
        if span.local_rotation is not None:
            rotation = _select(is_windowed, span.local_rotation, rotation)
        if is_rotated is not None:
            rotation = _select(is_rotated, rotation, no_rotation(rotation))
        query, key, value = self._projected(x)
        query = self._placed(query, "q_norm", rotation)
        if span.query_scale is not None:
            query = query * span.query_scale.astype(query.dtype)
        key = self._placed(key, "k_norm", rotation)
        if isinstance(span, TokenSpan):
            assert cache is not None
            cache = ring.write(cache, key[:, 0], value[:, 0], span.step)
            scale, softcap = config.score_scale, config.attn_logit_softcap
            mixed = attend_one(query, cache, span, scale=scale, softcap=softcap)
        else:
            # Nothing, unless the caller makes the collection mutable.
            self.sow(PROMPT_KV, "kv", (key, value))
            query, key, value = checkpoint_name((query, key, value), ATTENTION_IN)
            mixed = self._mixed(query, key, value, span, is_windowed)
        mixed = mixed.reshape(*x.shape[:-1], config.num_heads * config.head_dim)
        output = Projection(
            config.hidden_size,
            config.o_bias,
            self.output_init,
            self.param_dtype,
            self.multiply,
            name="o",
        )
        return checkpoint_name(output(mixed), ATTENTION_OUT), cache

    def _projected(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Query [..., heads, head_dim], key and value [..., kv_heads, head_dim]."""
        config = self.config

        def heads(count: int, name: str) -> jax.Array:
            width = count * config.head_dim
            project = Projection(
                width,
                config.qkv_bias,
                self.kernel_init,
                self.param_dtype,
                self.multiply,
                name=name,
            )
            return project(x).reshape(*x.shape[:-1], count, config.head_dim)

        of_query, of_key = config.num_heads, config.num_kv_heads
        if self.has_variable("params", QKV):
            joined = heads(of_query + 2 * of_key, QKV)
            query, key, value = jnp.split(
                joined, (of_query, of_query + of_key), axis=-2
            )
            return query, key, value
        return heads(of_query, "q"), heads(of_key, "k"), heads(of_key, "v")

    def _placed(self, x: jax.Array, norm: str, rotation: Rotation) -> jax.Array:
        """Normalized and rotated queries or keys: [B, T, heads, head_dim] -> same."""
        config = self.config
        if config.qk_norm and not config.qk_norm_rotated:
            x = self._normed(x, norm)
        x = rotate(x, rotation, config.rope_interleaved)
        if config.qk_norm and config.qk_norm_rotated:
            x = self._normed(x, norm)
        return x

    def _normed(self, x: jax.Array, name: str) -> jax.Array:
        config = self.config
        shape = x.shape
        if config.qk_norm_full:
            x = x.reshape(*shape[:-2], shape[-2] * shape[-1])
        init = norm_init(config)
        scale = self.param(name, init, (x.shape[-1],), self.param_dtype)
        normed = rms_norm(x, scale, config.rms_norm_eps, config.unit_offset)
        return normed.reshape(shape)

    def _mixed(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        span: AttentionSpan,
        is_windowed: jax.Array | bool,
    ) -> jax.Array:
        config = self.config
        scale, softcap = config.score_scale, config.attn_logit_softcap
        # A window that covers all keys has no effect.
        length = span.key_segment_ids.shape[1]
        window = config.sliding_window
        if is_windowed is False or (window is not None and window >= length):
            window = None
        is_static = isinstance(is_windowed, bool) or window is None
        reach: jax.Array | int | None = window
        if window is not None and not isinstance(is_windowed, bool):
            reach = jnp.where(is_windowed, window, length)
        if self.attend is None:
            mixed = attend(
                query,
                key,
                value,
                segment_ids=span.segment_ids,
                key_segment_ids=span.key_segment_ids,
                start=span.start,
                window=reach,
                positions=span.positions,
                scale=scale,
                softcap=softcap,
            )
            return checkpoint_name(mixed, ATTENTION)
        kernel = partial(self.attend, scale=scale, softcap=softcap)
        arrays = (query, key, value, span.segment_ids)
        if is_static:
            return kernel(*arrays, window=window)
        # A kernel is compiled for one window: both are compiled, and one of them runs.
        return jax.lax.cond(
            is_windowed,
            partial(kernel, window=window),
            partial(kernel, window=None),
            *arrays,
        )


def norm_init(config: DecoderConfig) -> Initializer:
    """Initializer of a norm's parameter, for an initial scale of one."""
    init = nn.initializers
    return init.zeros_init() if config.unit_offset else init.ones_init()


def _select(
    condition: jax.Array | bool, if_true: Rotation, if_false: Rotation
) -> Rotation:
    if isinstance(condition, bool):
        return if_true if condition else if_false
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), if_true, if_false)
