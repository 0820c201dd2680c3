"""Log-probabilities of labels, computed in the same chunks as the loss.

A policy equal to the student must have exactly the student's log-probabilities: one
rounding of a logit near 32 in bfloat16 moves their ratio by 13 %. So chunks,
matmuls and statistics are those of the loss.
"""

from jax import Array

from targetsft_jax.loss.fused import (
    DEFAULT_CHUNK,
    Layout,
    check_shapes,
    real_vocabulary,
)
from targetsft_jax.loss.per_token import per_token
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
    chunk_size = whole_number("chunk_size", chunk_size, 1)
    hidden, head = real_array("hidden", hidden), real_array("head", head)
    check_shapes(hidden, head, labels=labels, mask=mask)
    vocabulary = real_vocabulary(head, {}, vocab_size)
    logprob: Array = per_token(
        lambda logits, labels, columns: (
            TileRows(logits, labels, None, columns).log_prob
        ),
        hidden,
        head,
        label_array(labels, vocabulary, counted(mask)),
        mask_array("mask", mask),
        vocabulary=vocabulary,
        logit_cap=logit_cap,
        chunk_size=chunk_size,
        layout=layout or Layout(),
    )
    return logprob
