"""Top-k tokens of a model at each label, computed in the same chunks as the loss."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.loss.chunks import Batch, LiveTokens
from targetsft_jax.loss.fused import (
    DEFAULT_CHUNK,
    Layout,
    check_shapes,
    real_vocabulary,
)
from targetsft_jax.loss.second import capped_logits
from targetsft_jax.loss.tile import Columns
from targetsft_jax.targets.arguments import mask_array, real_array, whole_number
from targetsft_jax.targets.top_k import TopK


def top_k_tokens(
    hidden: Array,
    head: Array,
    k: int,
    *,
    mask: Array,
    vocab_size: int | None = None,
    logit_cap: float | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    layout: Layout | None = None,
) -> TopK:
    """The k most probable tokens of a model where `mask`, and 0 elsewhere.

    No [tokens, V] array exists, and masked tokens are not multiplied with the head.

    Args:
        hidden: hidden states [..., D] in the compute dtype.
        head: output embedding [V, D].
        k: number of tokens, from 1 to the vocabulary.
        mask: [...] bool, or 0 and 1.
        vocab_size, chunk_size, layout: as in `fused_loss`.
        logit_cap: c of logits that are c · tanh(hidden @ headᵀ / c).

    Returns:
        ids [..., k] int32, log_probs [..., k] and log_rest [...] float32.

    Raises:
        ValueError: shapes that do not fit, or a k outside of its range.
    """
    layout = layout or Layout()
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    hidden, head = real_array("hidden", hidden), real_array("head", head)
    check_shapes(hidden, head, mask=mask)
    vocabulary = real_vocabulary(head, {}, vocab_size)
    k = whole_number("k", k, 1, vocabulary)
    mask = mask_array("mask", mask)
    wide = np.promote_types(hidden.dtype, np.float32)

    def local(hidden: Array, head: Array, batch: Batch, _: object) -> tuple[TopK]:
        columns, size = layout.columns(vocabulary, head.shape[0])
        rows = layout.rows_in(head.astype(hidden.dtype), size, hidden.shape[-1])
        flat = hidden.reshape(-1, hidden.shape[-1]), batch.weights.reshape(-1)
        x, weights = layout.tokens_in(flat)
        live = LiveTokens.of(weights, chunk_size)

        def step(number: Array, found: TopK) -> TopK:
            indices, states = live.take(number, x)
            logits = capped_logits(states, rows, logit_cap)
            return jax.tree.map(
                lambda total, part: total.at[indices].set(
                    part, mode="drop", unique_indices=True
                ),
                found,
                _top_k(columns.blanked(logits), k, columns),
            )

        tokens = weights.shape[0]
        start = TopK(
            jnp.zeros((tokens, k), jnp.int32),
            jnp.zeros((tokens, k), wide),
            jnp.zeros(tokens, wide),
        )
        found = jax.lax.fori_loop(0, layout.trips(live.chunks), step, start)
        is_live = weights > 0

        def own(x: Array) -> Array:
            # The last chunk is padded with masked tokens.
            x = jnp.where(is_live.reshape(-1, *[1] * (x.ndim - 1)), x, 0)
            return layout.local_tokens(x).reshape(*batch.weights.shape, *x.shape[1:])

        return (jax.tree.map(own, found),)

    batch = Batch(jnp.zeros(mask.shape, jnp.int32), mask.astype(jnp.float32), {}, {})
    arguments = jax.tree.map(stop_gradient, (hidden, head, batch))
    found: TopK = layout.run(local, ("tokens",), *arguments, {})[0]
    return found


def _top_k(logits: Array, k: int, columns: Columns) -> TopK:
    """Largest k logits [C, v] over all devices' columns, and the rest's log-mass."""
    width = logits.shape[1]
    values, places = jax.lax.top_k(logits, min(k, width))
    ids = places + columns.first
    if columns.axes:
        values, ids = (
            jax.lax.all_gather(x, columns.axes, axis=1, tiled=True)
            for x in (values, ids)
        )
        values, order = jax.lax.top_k(values, k)
        ids = jnp.take_along_axis(ids, order, axis=1)
    places = ids - columns.first
    places = jnp.where(places < 0, width, places)
    chosen = jnp.zeros(logits.shape, bool)
    lines = jnp.broadcast_to(jnp.arange(len(logits))[:, None], places.shape)
    chosen = chosen.at[lines, places].set(True, mode="drop")
    rest = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    total = columns.log_total(jax.nn.logsumexp(logits, axis=-1))
    log_rest = columns.log_total(rest) - total
    return TopK(ids.astype(jnp.int32), values - total[:, None], log_rest)
