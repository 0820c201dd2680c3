"""Top-k tokens of a model at each label, computed in the same chunks as the loss."""

import jax
import jax.numpy as jnp
from jax import Array

from targetsft_jax.loss.fused import (
    DEFAULT_CHUNK,
    Layout,
    check_shapes,
    real_vocabulary,
)
from targetsft_jax.loss.per_token import per_token
from targetsft_jax.loss.tile import Columns
from targetsft_jax.targets.arguments import mask_array, real_array, whole_number
from targetsft_jax.targets.top_k import TopK, at_tokens


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
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    hidden, head = real_array("hidden", hidden), real_array("head", head)
    check_shapes(hidden, head, mask=mask)
    vocabulary = real_vocabulary(head, {}, vocab_size)
    k = whole_number("k", k, 1, vocabulary)
    mask = mask_array("mask", mask)
    found: TopK = per_token(
        lambda logits, _, columns: _top_k(columns.blanked(logits), k, columns),
        hidden,
        head,
        jnp.zeros(mask.shape, jnp.int32),
        mask,
        vocabulary=vocabulary,
        logit_cap=logit_cap,
        chunk_size=chunk_size,
        layout=layout or Layout(),
    )
    return found


def _top_k(logits: Array, k: int, columns: Columns) -> TopK:
    """Largest k logits [C, v] over all devices' columns, and the rest's log-mass."""
    values, places = jax.lax.top_k(logits, min(k, logits.shape[1]))
    ids = places + columns.first
    if columns.axes:
        values, ids = (
            jax.lax.all_gather(x, columns.axes, axis=1, tiled=True)
            for x in (values, ids)
        )
        values, order = jax.lax.top_k(values, k)
        ids = jnp.take_along_axis(ids, order, axis=1)
    chosen = at_tokens(jnp.zeros(logits.shape, bool), ids, True, columns.first)
    rest = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    total = columns.log_total(jax.nn.logsumexp(logits, axis=-1))
    log_rest = columns.log_total(rest) - total
    return TopK(ids.astype(jnp.int32), values - total[:, None], log_rest)
