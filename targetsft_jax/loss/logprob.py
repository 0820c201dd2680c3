"""Log-probabilities of labels from hidden states and a head, by the loss's own chunks.

A policy that a method weighs the student against must find the student's own value
where the two are equal: one rounding of a logit near 32 in bfloat16 moves their ratio
by 13 %. So a chunk's tokens, its product and its statistics are those of the loss.
"""

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.loss.chunks import Batch, LiveTokens, logits_of
from targetsft_jax.loss.fused import DEFAULT_CHUNK, Layout
from targetsft_jax.loss.tile import TileRows


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

    No [tokens, V] array is made, and masked tokens reach no head.

    Args:
        hidden: hidden states [..., D] in the compute dtype.
        head: output embedding [V, D].
        labels: [...] int.
        mask: [...] bool.
        vocab_size, chunk_size, layout: as in `fused_loss`.
        logit_cap: c of logits that are c · tanh(hidden @ headᵀ / c).
    """
    layout = layout or Layout()
    vocabulary = vocab_size or head.shape[0]

    def local(hidden: Array, head: Array, batch: Batch, _: object) -> tuple[Array]:
        columns, size = layout.columns(vocabulary, head.shape[0])
        rows = layout.rows_in(head.astype(hidden.dtype), size, hidden.shape[-1])
        flat = hidden.reshape(-1, hidden.shape[-1]), jax.tree.map(jnp.ravel, batch)
        x, met = layout.tokens_in(flat)
        live = LiveTokens.of(met.weights, chunk_size)

        def step(number: Array, found: Array) -> Array:
            place, (states, part) = live.take(number, (x, met))
            logits = logits_of(states, rows, logit_cap)
            own = TileRows(logits, part.labels, None, columns).log_prob
            return found.at[place].set(own, mode="drop", unique_indices=True)

        none = jnp.zeros(met.labels.shape, jnp.promote_types(hidden.dtype, "float32"))
        found = jax.lax.fori_loop(0, layout.trips(live.chunks), step, none)
        # The last chunk is filled with tokens that are not live.
        found = layout.own_tokens(jnp.where(met.weights > 0, found, 0))
        return (found.reshape(batch.labels.shape),)

    batch = Batch(labels, mask.astype(jnp.float32), {}, {})
    given = jax.tree.map(stop_gradient, (hidden, head, batch))
    return layout.run(local, ("tokens",), *given, {})[0]
