"""Attention in blocks of queries, for CPUs: half of the square, recomputed backward.

    S = scale · Q Kᵀ    P = exp(S − lse)    O = P V
    dVᵀ = dOᵀ P    dP = dO Vᵀ    dS = P · (dP − Σ dO · O)
    dQ = scale · dS K    dKᵀ = scale · Qᵀ dS

A block of queries is multiplied with the keys up to its end only, and with a window
from the first key in reach. The backward pass recomputes the scores from the
log-sum-exp, so that no [T, T] array outlives its block. See "FlashAttention",
arXiv:2205.14135; here a block is a few large products of XLA.

dK and dV are computed transposed, since XLA's products on a CPU are three times slower
where they contract the rows of a large left operand.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from targetsft_jax.models.remat import ATTENTION

BLOCKS = 8
"""Most blocks of a row: each of them is compiled."""

SMALLEST = 128
"""Queries of the smallest block: shorter ones have slower products."""

MASKED = -1e30

Saved = tuple[Array, Array, Array, Array, Array, list[Array]]


def blockwise(
    query: Array,
    key: Array,
    value: Array,
    segment_ids: Array,
    *,
    window: int | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> Array:
    """Blocks of queries over the keys in reach, for CPUs; memory grows with T² / 8."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = _Scores(window, scale, softcap)

    @jax.custom_vjp
    def attend(query: Array, key: Array, value: Array, segment_ids: Array) -> Array:
        return _forward(scores, query, key, value, segment_ids)[0]

    def forward(
        query: Array, key: Array, value: Array, segment_ids: Array
    ) -> tuple[Array, Saved]:
        output, sums = checkpoint_name(
            _forward(scores, query, key, value, segment_ids), ATTENTION
        )
        return output, (query, key, value, segment_ids, output, sums)

    def backward(saved: Saved, d_output: Array) -> tuple[Array | None, ...]:
        return (*_backward(scores, *saved, d_output), None)

    attend.defvjp(forward, backward)
    return attend(query, key, value, segment_ids)


@dataclass(frozen=True)
class _Scores:
    """Scores of a block of queries, R = Q · G rows for the Q queries of G heads."""

    window: int | None
    scale: float
    softcap: float | None

    def blocks(self, length: int) -> Iterator[tuple[slice, slice]]:
        """Queries and keys of each block."""
        size = max(SMALLEST, -(-length // BLOCKS))
        for start in range(0, length, size):
            stop = min(start + size, length)
            first = 0 if self.window is None else max(0, start - self.window + 1)
            yield slice(start, stop), slice(first, stop)

    def capped(self, query: Array, key: Array) -> Array:
        """Scores [B, K, R, S] of scaled queries [B, K, R, d] and keys [B, K, S, d]."""
        scores = _product("bkrd,bksd->bkrs", query, key)
        if self.softcap is None:
            return scores
        return self.softcap * jnp.tanh(scores / self.softcap)

    def masked(self, capped: Array, segments: Array, rows: slice, keys: slice) -> Array:
        """Scores [B, K, R, S], `MASKED` for keys that a query does not attend to."""
        behind = jnp.arange(rows.start, rows.stop)[:, None] - jnp.arange(
            keys.start, keys.stop
        )
        visible = behind >= 0
        if self.window is not None:
            visible &= behind < self.window
        visible = visible & (segments[:, rows, None] == segments[:, None, keys])
        bias = jnp.where(visible, 0, jnp.asarray(MASKED, capped.dtype))[
            :, None, :, None
        ]
        batch, heads, _, size = capped.shape
        by_query = capped.reshape(batch, heads, rows.stop - rows.start, -1, size)
        return (by_query + bias).reshape(capped.shape)


def _forward(
    scores: _Scores, query: Array, key: Array, value: Array, segment_ids: Array
) -> tuple[Array, list[Array]]:
    """Output [B, T, H, d], and the log-sum-exp of each block [B, K, R]."""
    heads = key.shape[2]
    scaled = (query * scores.scale).astype(query.dtype)
    key, value = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    outputs, sums = [], []
    for rows, keys in scores.blocks(query.shape[1]):
        capped = scores.capped(_by_head(scaled[:, rows], heads), key[:, :, keys])
        masked = scores.masked(capped, segment_ids, rows, keys)
        highest = jnp.max(masked, axis=-1, keepdims=True)
        weights = jnp.exp(masked - highest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = weights.astype(value.dtype)
        mixed = _product("bkrs,bksd->bkrd", weights, value[:, :, keys]) / total
        outputs.append(_by_query(mixed, query[:, rows]))
        sums.append((highest + jnp.log(total))[..., 0])
    return jnp.concatenate(outputs, axis=1), sums


def _backward(
    scores: _Scores,
    query: Array,
    key: Array,
    value: Array,
    segment_ids: Array,
    output: Array,
    sums: list[Array],
    d_output: Array,
) -> tuple[Array, Array, Array]:
    """Gradients of query, key and value."""
    heads, wide = key.shape[2], _wide(query)
    scaled = (query * scores.scale).astype(query.dtype)
    keys, values = jnp.swapaxes(key, 1, 2), jnp.swapaxes(value, 1, 2)
    batch, _, length, size = keys.shape
    d_key = jnp.zeros((batch, heads, size, length), wide)
    d_value = jnp.zeros_like(d_key)
    d_queries = []
    drift = jnp.sum(d_output.astype(wide) * output, axis=-1, keepdims=True)
    for (rows, near), lse in zip(scores.blocks(length), sums):
        block_query = _by_head(scaled[:, rows], heads)
        d_block = _by_head(d_output[:, rows], heads)
        capped = scores.capped(block_query, keys[:, :, near])
        masked = scores.masked(capped, segment_ids, rows, near)
        weights = jnp.exp(masked - lse[..., None])
        d_weights = _product("bkrd,bksd->bkrs", d_block, values[:, :, near])
        d_scores = weights * (d_weights - _by_head(drift[:, rows], heads))
        if scores.softcap is not None:
            d_scores = d_scores * (1 - jnp.square(capped / scores.softcap))
        weights, d_scores = weights.astype(value.dtype), d_scores.astype(key.dtype)
        d_query = _product("bkrs,bksd->bkrd", d_scores, keys[:, :, near])
        d_queries.append(_by_query(scores.scale * d_query, query[:, rows]))
        d_value = d_value.at[..., near].add(
            _product("bkdr,bkrs->bkds", jnp.swapaxes(d_block, 2, 3), weights)
        )
        d_key = d_key.at[..., near].add(
            _product("bkdr,bkrs->bkds", jnp.swapaxes(block_query, 2, 3), d_scores)
        )
    d_query = jnp.concatenate(d_queries, axis=1)
    d_key, d_value = (jnp.moveaxis(x, 3, 1) for x in (d_key, d_value))
    return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype)


def _by_head(x: Array, heads: int) -> Array:
    """Queries by key head: [B, Q, H, d] -> [B, K, R, d], heads of a query adjacent."""
    batch, length, _, size = x.shape
    grouped = x.reshape(batch, length, heads, -1, size)
    return jnp.swapaxes(grouped, 1, 2).reshape(batch, heads, -1, size)


def _by_query(x: Array, like: Array) -> Array:
    """Inverse of `_by_head`, in shape and dtype of `like`."""
    batch, length, _, size = like.shape
    grouped = x.reshape(batch, x.shape[1], length, -1, size)
    return jnp.swapaxes(grouped, 1, 2).reshape(like.shape).astype(like.dtype)


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=_wide(left))


def _wide(x: Array) -> jnp.dtype:
    return jnp.promote_types(x.dtype, jnp.float32)
