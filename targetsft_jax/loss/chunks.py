"""The loop over chunks of tokens on one device: three products of each chunk's g.

A chunk's logits live only long enough for its statistics, its value and its closed-
form logit gradient g; the two products of g (with the head for ∂hidden, with hidden
for ∂head) are taken at once. That is three student products and one of the second
model, the least there is without exploiting sparsity of g.

Tokens of weight 0 never reach a head: the others are taken first, and the loop ends
behind the last of them. Nothing differentiates through the loop, so its length may
depend on the data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from targetsft_jax.loss.histogram import EDGES, histogram
from targetsft_jax.loss.tile import Columns, TileRows
from targetsft_jax.targets.methods import Method
from targetsft_jax.targets.rows import Mix, Rows, compute_dtype, times

TokenLoss = Callable[..., Array]
Sums = dict[str, Array]


@dataclass(frozen=True)
class Spec:
    """A loss with its hyper-parameters: a method, or a user's function.

    Attributes:
        caps: soft caps by the name of their logits; "logits" are the student's.
        histograms: whether metrics tell how statistics are spread over tokens.
    """

    method: Method | None
    function: TokenLoss | None
    hyper: Mapping[str, Any]
    caps: Mapping[str, float] = field(default_factory=dict)
    histograms: bool = False


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Batch:
    """What is constant in θ, by token: leading shape [...], or [N] once flattened.

    Attributes:
        labels: int; weights: float.
        columns: the method's per-token inputs by name.
        second: the second model's hidden states [..., D'], by the name of its logits;
            one entry or none for a method, up to two for a user's function.
    """

    labels: Array
    weights: Array
    columns: dict[str, Array]
    second: dict[str, Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pulled:
    """What the loop has made; sums are over this device's tokens.

    Attributes:
        sums: the loss and metrics, the same wherever these tokens' columns lie.
        shares: metrics [] of which this device has the share of its columns.
        d_hidden: this device's columns' part of ∂hidden [N, D], or None.
        d_head: ∂head [v, D] float32 of its columns from its tokens, or None.
    """

    sums: Sums
    shares: Sums
    d_hidden: Array | None
    d_head: Array | None


def pull(
    spec: Spec,
    columns: Columns,
    hidden: Array,
    head: Array,
    batch: Batch,
    heads: Mapping[str, Array],
    *,
    chunk_size: int,
    gradients: tuple[str, ...],
    trips: Callable[[Array], Array] = lambda count: count,
) -> Pulled:
    """The loop over this device's tokens and columns.

    Args:
        spec: the loss.
        columns: which columns of the vocabulary the heads' rows are.
        hidden: [N, D]; head: [v, D], in the same dtype.
        batch: flat, [N].
        heads: rows [v, D'] of the second models' heads.
        chunk_size: tokens in a chunk.
        gradients: which to make, of "hidden" and "head": one product each; with none
            of them F_s + F_t is all.
        trips: this device's number of chunks -> how many to run.
    """
    live = LiveTokens.of(batch.weights, chunk_size)
    mixes = _mixes(spec, batch)

    def made(key: str, states: Array, head: Array) -> Array:
        """Logits [C, v], under their cap."""
        return logits_of(states, head, spec.caps.get(key))

    def chunk(x: Array, part: Batch) -> tuple[Sums, Sums, Array]:
        logits = made("logits", x, head)
        second = {
            key: made(key, states, heads[key]) for key, states in part.second.items()
        }
        sums, shares, g = _chunk(spec, columns, mixes, logits, part, second)
        if (cap := spec.caps.get("logits")) is not None:
            g = g * (1 - jnp.square(logits / cap))
        return sums, shares, g

    def step(number: Array, carry: Pulled) -> Pulled:
        rows, (x, part) = live.take(number, (hidden, batch))
        sums, shares, g = chunk(x, part)
        sums = jax.tree.map(jnp.add, carry.sums, sums)
        shares = jax.tree.map(jnp.add, carry.shares, shares)
        g = g.astype(x.dtype)
        d_hidden, d_head = carry.d_hidden, carry.d_head
        if d_hidden is not None:
            d_x = _product("cv,vd->cd", g, head).astype(x.dtype)
            d_hidden = d_hidden.at[rows].set(d_x, mode="drop", unique_indices=True)
        if d_head is not None:
            d_head = d_head + _product("cv,cd->vd", g, x)
        return Pulled(sums, shares, d_hidden, d_head)

    zero = jnp.zeros((), jnp.int32)
    sums, shares, _ = jax.eval_shape(
        lambda: chunk(*live.take(zero, (hidden, batch))[1])
    )
    sums, shares = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (sums, shares)
    )
    start = Pulled(
        sums,
        shares,
        jnp.zeros_like(hidden) if "hidden" in gradients else None,
        jnp.zeros(head.shape, _wide(head)) if "head" in gradients else None,
    )
    return jax.lax.fori_loop(0, trips(live.chunks), step, start)


@dataclass(frozen=True)
class LiveTokens:
    """The tokens that have a weight, in chunks.

    Attributes:
        order: indices of tokens, those with a weight first in their order, filled to a
            multiple of `size` by indices past the end.
        count: [] int32, tokens with a weight.
        size: tokens in a chunk.
    """

    order: Array
    count: Array
    size: int

    @classmethod
    def of(cls, weights: Array, chunk_size: int) -> "LiveTokens":
        """Those of weights [N], in chunks of at most so many."""
        tokens = weights.size
        size = max(1, min(chunk_size, tokens))
        order = jnp.argsort(weights == 0, stable=True).astype(jnp.int32)
        filling = jnp.arange(tokens, -(-tokens // size) * size, dtype=jnp.int32)
        count = jnp.sum(weights != 0, dtype=jnp.int32)
        return cls(jnp.concatenate([order, filling]), count, size)

    @property
    def chunks(self) -> Array:
        """How many chunks hold them all, [] int32."""
        return -(-self.count // self.size)

    def take(self, number: Array, tree: Any) -> tuple[Array, Any]:
        """Indices [C] of a chunk, and its part of arrays [N, ...]."""
        first = number * self.size
        rows = jax.lax.dynamic_slice(self.order, (first,), (self.size,))
        kept = first + jnp.arange(self.size, dtype=jnp.int32) < self.count

        def part(leaf: Array) -> Array:
            taken = jnp.take(leaf, rows, axis=0, mode="clip")
            # Not even a NaN of a token that has no weight may reach ∂head.
            return jnp.where(kept.reshape(-1, *[1] * (leaf.ndim - 1)), taken, 0)

        return rows, jax.tree.map(part, tree)


def logits_of(states: Array, head: Array, cap: float | None) -> Array:
    """[C, v] of states [C, D] and rows [v, D] of a head, under its cap."""
    raw = _product("cd,vd->cv", states, head)
    return raw if cap is None else cap * jnp.tanh(raw / cap)


def _mixes(spec: Spec, batch: Batch) -> tuple[Mix, ...]:
    """The alternatives that a chunk will ask for, found by building one row's target.

    They are constants of the method, known before any logits: so that their
    statistics can be taken in the same pass, and sent in the same collective.
    """
    plain = ((0, 1),) if batch.second else ()
    if spec.method is None:
        return plain
    found: list[Mix | None] = []

    def build(logits: Array, labels: Array, columns: dict[str, Array]) -> None:
        rows = Rows(logits, labels, logits if batch.second else None)
        found.append(spec.method.build(rows, **columns, **spec.hyper).mix)  # type: ignore[union-attr]

    one = jax.ShapeDtypeStruct((1, 2), compute_dtype(batch.weights))
    label, columns = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype),
        (batch.labels, batch.columns),
    )
    jax.eval_shape(build, one, label, columns)
    return tuple(dict.fromkeys(mix for mix in (*found, *plain) if mix is not None))


def _chunk(
    spec: Spec,
    columns: Columns,
    mixes: tuple[Mix, ...],
    logits: Array,
    part: Batch,
    second: Mapping[str, Array],
) -> tuple[Sums, Sums, Array]:
    """Sums of weighted value and metrics, shares, and weighted g [C, v] of a chunk."""
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
        shares["negative_mass"] = jnp.sum(times(weights, negative))
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
    sums = {name: jnp.sum(times(weights, x)) for name, x in statistics.items()}
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

    A function may do anything with a row, so it gets whole rows, on every device.
    """
    function = spec.function
    assert function is not None
    whole = {key: columns.whole(x) for key, x in second.items()}
    values, backward = jax.vjp(
        lambda z: function(z, part.labels, **whole, **inputs), columns.whole(logits)
    )
    if values.shape != part.labels.shape:
        raise ValueError(
            f"the loss function returned {values.shape} for labels "
            f"{part.labels.shape}; expected one loss per token"
        )
    # A cotangent of 0 does not stop a NaN: padding may have no derivative.
    (gradient,) = backward(weights.astype(values.dtype))
    gradient = jnp.where(weights[:, None] == 0, 0, gradient)
    return values, columns.own(gradient, logits.shape[1])


def _product(equation: str, left: Array, right: Array) -> Array:
    return jnp.einsum(equation, left, right, preferred_element_type=_wide(left))


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
