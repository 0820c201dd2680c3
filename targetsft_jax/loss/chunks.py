"""Chunked loss and gradients on one device: three matmuls per chunk.

The logits of a chunk live only long enough for its statistics, its value and its logit
gradient g in closed form; the two products of g (with the head for ∂hidden, with hidden
for ∂head) follow at once. That is three student products and one of the second model,
the fewest possible without exploiting sparsity of g.

Tokens of weight 0 are never multiplied with a head: the others are sorted first, and
the loop ends after the last of them. The loop is not differentiated, so its length may
depend on the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from targetsft_jax.loss.histogram import EDGES, histogram
from targetsft_jax.loss.second import Recipe, capped_logits, second_logits
from targetsft_jax.loss.tile import Columns, TileRows
from targetsft_jax.targets.method import Method
from targetsft_jax.targets.rows import Mix, compute_dtype, zero_safe_product
from targetsft_jax.targets.top_k import TopK

TokenLoss = Callable[..., Array]
Sums = dict[str, Array]


@dataclass(frozen=True)
class Spec:
    """A loss with its hyper-parameters: a method, or a user's function.

    Attributes:
        cap: soft cap of the student's logits; None for no cap.
        second: recipe of each second model by the name of its logits.
        histograms: True to add histograms of the per-token statistics.
    """

    method: Method | None
    function: TokenLoss | None
    hyper: Mapping[str, Any]
    cap: float | None = None
    second: Mapping[str, Recipe] = field(default_factory=dict)
    histograms: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """Per-token arrays, constant in θ: leading shape [...], or [N] when flattened.

    Attributes:
        labels: int, −1 for one outside the vocabulary; weights: float.
        columns: the method's per-token inputs by name.
        second: sources of second models, by the name of their logits: hidden states
            [..., D'], or stored tokens. At most one second model for a method, at most
            two for a user's function.
    """

    labels: Array
    weights: Array
    columns: dict[str, Array]
    second: dict[str, tuple[Array | TopK, ...]]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ChunkSums:
    """Sums over chunks, for this device's tokens and columns.

    Attributes:
        sums: the loss and metrics, equal on all devices that share these tokens.
        shares: metrics [], partial sums over this device's columns.
        d_hidden: ∂hidden [N, D], a partial sum over this device's columns, or None.
        d_head: ∂head [v, D] float32 of this device's columns, a partial sum over its
            tokens, or None.
    """

    sums: Sums
    shares: Sums
    d_hidden: Array | None
    d_head: Array | None


def chunked_loss(
    spec: Spec,
    columns: Columns,
    hidden: Array,
    head: Array,
    batch: Batch,
    heads: Mapping[str, tuple[Array | None, ...]],
    *,
    chunk_size: int,
    gradients: tuple[str, ...],
    trips: Callable[[Array], Array] = lambda count: count,
) -> ChunkSums:
    """Loss, metrics and gradients of this device's tokens and columns.

    Args:
        spec: the loss.
        columns: this device's columns of the vocabulary, the rows of `head`.
        hidden: [N, D]; head: [v, D], in the same dtype.
        batch: flat, [N].
        heads: rows [v, D'] of each source's head; None for a stored one.
        chunk_size: tokens per chunk.
        gradients: any of "hidden" and "head", each one matmul per chunk; empty for the
            forward products F_s + F_t alone.
        trips: this device's number of chunks -> the number to run.
    """
    live = LiveTokens.of(batch.weights, chunk_size)
    mixes = _mixes(spec, batch)

    def one_chunk(x: Array, part: Batch) -> tuple[Sums, Sums, Array]:
        logits = capped_logits(x, head, spec.cap)
        second = {
            key: second_logits(spec.second[key], columns, logits, sources, heads[key])
            for key, sources in part.second.items()
        }
        sums, shares, g = _chunk(spec, columns, mixes, logits, part, second)
        if spec.cap is not None:
            g = g * (1 - jnp.square(logits / spec.cap))
        return sums, shares, g

    def step(number: Array, carry: ChunkSums) -> ChunkSums:
        rows, (x, part) = live.take(number, (hidden, batch))
        sums, shares, g = one_chunk(x, part)
        sums = jax.tree.map(jnp.add, carry.sums, sums)
        shares = jax.tree.map(jnp.add, carry.shares, shares)
        g = g.astype(x.dtype)
        d_hidden, d_head = carry.d_hidden, carry.d_head
        if d_hidden is not None:
            d_x = _product("cv,vd->cd", g, head).astype(x.dtype)
            d_hidden = d_hidden.at[rows].set(d_x, mode="drop", unique_indices=True)
        if d_head is not None:
            d_head = d_head + _product("cv,cd->vd", g, x)
        return ChunkSums(sums, shares, d_hidden, d_head)

    zero = jnp.zeros((), jnp.int32)
    sums, shares, _ = jax.eval_shape(
        lambda: one_chunk(*live.take(zero, (hidden, batch))[1])
    )
    sums, shares = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (sums, shares)
    )
    start = ChunkSums(
        sums,
        shares,
        jnp.zeros_like(hidden) if "hidden" in gradients else None,
        jnp.zeros(head.shape, _wide(head)) if "head" in gradients else None,
    )
    return jax.lax.fori_loop(0, trips(live.chunks), step, start)


@dataclass(frozen=True)
class LiveTokens:
    """Tokens of nonzero weight, in chunks.

    Attributes:
        order: indices of all tokens, those of nonzero weight first and in order, padded
            to a multiple of `size` by indices past the end.
        count: [] int32, number of tokens of nonzero weight.
        size: tokens per chunk.
    """

    order: Array
    count: Array
    size: int

    @classmethod
    def of(cls, weights: Array, chunk_size: int) -> "LiveTokens":
        """Live tokens of weights [N], in chunks of at most `chunk_size`."""
        tokens = weights.size
        size = max(1, min(chunk_size, tokens))
        order = jnp.argsort(weights == 0, stable=True).astype(jnp.int32)
        padding = jnp.arange(tokens, -(-tokens // size) * size, dtype=jnp.int32)
        count = jnp.sum(weights != 0, dtype=jnp.int32)
        return cls(jnp.concatenate([order, padding]), count, size)

    @property
    def chunks(self) -> Array:
        """Number of chunks with live tokens, [] int32."""
        return -(-self.count // self.size)

    def take(self, number: Array, tree: Any) -> tuple[Array, Any]:
        """Token indices [C] of a chunk, and its slices [C, ...] of arrays [N, ...]."""
        first = number * self.size
        rows = jax.lax.dynamic_slice(self.order, (first,), (self.size,))
        is_live = first + jnp.arange(self.size, dtype=jnp.int32) < self.count

        def part(leaf: Array) -> Array:
            values = jnp.take(leaf, rows, axis=0, mode="clip")
            # Zeroed, so that a NaN at a token of weight 0 cannot reach ∂head.
            return jnp.where(is_live.reshape(-1, *[1] * (leaf.ndim - 1)), values, 0)

        return rows, jax.tree.map(part, tree)


def _mixes(spec: Spec, batch: Batch) -> tuple[Mix, ...]:
    """Mixes of the alternatives that a chunk needs, known before its logits.

    Their statistics are computed with the student's, in one pass and one collective.
    """
    mixes: list[Mix | None] = []
    if spec.method is not None:
        mixes.append(spec.method.mix_of(batch.columns, **spec.hyper))
    if batch.second:
        mixes.append((0, 1))
    return tuple(dict.fromkeys(mix for mix in mixes if mix is not None))


def _chunk(
    spec: Spec,
    columns: Columns,
    mixes: tuple[Mix, ...],
    logits: Array,
    part: Batch,
    second: Mapping[str, Array],
) -> tuple[Sums, Sums, Array]:
    """Weighted sums and shares of a chunk, and its weighted g [C, v]."""
    weights = part.weights.astype(compute_dtype(logits))
    key = next(iter(second), None)
    other = None if key is None else second[key]
    rows = TileRows(logits, part.labels, other, columns, mixes)
    statistics: Sums = {}
    shares: Sums = {}
    inputs = {**part.columns, **spec.hyper}
    if spec.method is None:
        values, g = _differentiate(spec, columns, logits, second, part, weights, inputs)
    else:
        q = spec.method.build(rows, **inputs).bind(rows)
        values = spec.method.published(q, **inputs)
        g = q.weighted(weights).logit_gradient()
        statistics = {"gamma": q.gamma, "strength": q.strength}
        negative = jnp.zeros_like(weights)
        if not spec.method.is_proper(**inputs):
            excess = q.logit_gradient() - rows.probabilities
            negative = jnp.sum(jnp.maximum(0, excess), axis=-1)
        shares["negative_mass"] = jnp.sum(zero_safe_product(weights, negative))
    statistics |= {
        "loss": values,
        "nll": rows.nll,
        "entropy": rows.entropy,
        "label_prob": rows.prob,
        "accuracy": rows.correct.astype(weights.dtype),
    }
    if key is not None:
        plain = rows.alternative((0, 1))
        name = "kl_" + key.removesuffix("_logits")
        statistics[name] = plain.cross_entropy - plain.entropy
    sums = {
        name: jnp.sum(zero_safe_product(weights, x)) for name, x in statistics.items()
    }
    if spec.histograms:
        sums |= {
            f"histogram_{name}": histogram(statistics[name], weights, edges)
            for name, edges in EDGES.items()
            if name in statistics
        }
    return sums, shares, g


def _differentiate(
    spec: Spec,
    columns: Columns,
    logits: Array,
    second: Mapping[str, Array],
    part: Batch,
    weights: Array,
    inputs: Mapping[str, Any],
) -> tuple[Array, Array]:
    """Values [C] of a user's loss and its weighted logit gradient [C, v], by autodiff.

    A function may read any entry of a row, so every device computes full rows.

    Raises:
        ValueError: the function does not return one loss per token.
    """
    function = spec.function
    assert function is not None
    full_second = {key: columns.full_rows(x) for key, x in second.items()}
    outside = part.labels < 0
    # As for a method, a label outside the vocabulary has no finite result.
    labels = jnp.where(outside, 0, part.labels)
    values, backward = jax.vjp(
        lambda z: function(z, labels, **full_second, **inputs),
        columns.full_rows(logits),
    )
    if values.shape != part.labels.shape:
        raise ValueError(
            f"the loss function returned {values.shape} for labels "
            f"{part.labels.shape}; expected one loss per token"
        )
    # 0 · NaN is NaN, and padding may have no derivative.
    (gradient,) = backward(weights.astype(values.dtype))
    values = jnp.where(outside, jnp.nan, values)
    gradient = jnp.where(outside[:, None], jnp.nan, gradient)
    gradient = jnp.where(weights[:, None] == 0, 0, gradient)
    return values, columns.local_columns(gradient, logits.shape[1])


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=_wide(left))


def _wide(x: Array) -> Any:
    return np.promote_types(x.dtype, np.float32)
