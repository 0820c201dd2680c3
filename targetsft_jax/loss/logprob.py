"""Log-probabilities of labels, computed in the same chunks as the loss.

A policy equal to the student must have exactly the student's log-probabilities: one
rounding of a logit near 32 in bfloat16 moves their ratio by 13 %. So chunks,
matmuls and statistics are those of the loss.
"""

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
from targetsft_jax.loss.second import capped_logits, is_soft_cap
from targetsft_jax.loss.tile import TileRows
from targetsft_jax.targets.arguments import (
    counted,
    label_array,
    mask_array,
    real_array,
    whole_number,
)


def label_logprob(
    hidden: Array,
    head: Array,
    labels: Array,
    *,
    mask: Array,
    vocab_size: int | None = None,
    logit_cap: float | None = None,
    chunk_size: int = DEFAULT_CHUNK,
    layout: Layout | None = None,
) -> Array:
    """log p(label) [...] float32 where `mask`, and 0 elsewhere; constant in θ.

    No [tokens, V] array exists, and masked tokens are not multiplied with the head.

    Args:
        hidden: hidden states [..., D] in the compute dtype.
        head: output embedding [V, D].
        labels: [...] int; NaN results where a traced one is outside the vocabulary.
        mask: [...] bool, or 0 and 1.
        vocab_size, chunk_size, layout: as in `fused_loss`.
        logit_cap: c of logits that are c · tanh(hidden @ headᵀ / c).

    Raises:
        ValueError: shapes that do not fit; or, unless it is traced, a label outside the
            vocabulary where the mask is true.
    """
    layout = layout or Layout()
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    if not is_soft_cap(logit_cap):
        raise ValueError(
            f"logit_cap is {logit_cap}; expected a positive float32 number, or None"
        )
    hidden, head = real_array("hidden", hidden), real_array("head", head)
    check_shapes(hidden, head, labels=labels, mask=mask)
    vocabulary = real_vocabulary(head, {}, vocab_size)
    labels = label_array(labels, vocabulary, counted(mask))
    mask = mask_array("mask", mask)

    def local(hidden: Array, head: Array, batch: Batch, _: object) -> tuple[Array]:
        columns, size = layout.columns(vocabulary, head.shape[0])
        rows = layout.rows_in(head.astype(hidden.dtype), size, hidden.shape[-1])
        flat = hidden.reshape(-1, hidden.shape[-1]), jax.tree.map(jnp.ravel, batch)
        x, group = layout.tokens_in(flat)
        live = LiveTokens.of(group.weights, chunk_size)

        def step(number: Array, logprob: Array) -> Array:
            indices, (states, part) = live.take(number, (x, group))
            logits = capped_logits(states, rows, logit_cap)
            values = TileRows(logits, part.labels, None, columns).log_prob
            return logprob.at[indices].set(values, mode="drop", unique_indices=True)

        wide = np.promote_types(hidden.dtype, np.float32)
        zeros = jnp.zeros(group.labels.shape, wide)
        logprob = jax.lax.fori_loop(0, layout.trips(live.chunks), step, zeros)
        # The last chunk is padded with masked tokens.
        logprob = layout.local_tokens(jnp.where(group.weights > 0, logprob, 0))
        return (logprob.reshape(batch.labels.shape),)

    batch = Batch(labels, mask.astype(jnp.float32), {}, {})
    arguments = jax.tree.map(stop_gradient, (hidden, head, batch))
    return layout.run(local, ("tokens",), *arguments, {})[0]
