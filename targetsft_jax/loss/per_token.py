"""Results of a model at each unmasked token, in the same chunks as the loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.loss.chunks import Batch, LiveTokens
from targetsft_jax.loss.fused import Layout
from targetsft_jax.loss.second import capped_logits, is_soft_cap
from targetsft_jax.loss.tile import Columns

Measure = Callable[[Array, Array, Columns], Any]
"""(logits [C, v], labels [C], this device's columns) -> arrays [C, ...]."""


def per_token(
    measure: Measure,
    hidden: Array,
    head: Array,
    labels: Array,
    mask: Array,
    *,
    vocabulary: int,
    logit_cap: float | None,
    chunk_size: int,
    layout: Layout,
) -> Any:
    """Arrays [..., ...] of `measure` where `mask`, and 0 elsewhere; constant in θ.

    No [tokens, V] array exists, and masked tokens are not multiplied with the head.

    Args:
        measure: results of a chunk, equal on all devices that share its tokens.
        hidden: [..., D]; head: [V, D]; labels: [...] int32; mask: [...] bool.
        vocabulary: number of real tokens.
        logit_cap, chunk_size, layout: as in `label_logprob`.

    Raises:
        ValueError: a soft cap that is not a positive number.
    """
    if not is_soft_cap(logit_cap):
        raise ValueError(
            f"logit_cap is {logit_cap}; expected a positive float32 number, or None"
        )

    def local(hidden: Array, head: Array, batch: Batch, _: object) -> tuple[Any]:
        columns, size = layout.columns(vocabulary, head.shape[0])
        rows = layout.rows_in(head.astype(hidden.dtype), size, hidden.shape[-1])
        flat = hidden.reshape(-1, hidden.shape[-1]), jax.tree.map(jnp.ravel, batch)
        x, group = layout.tokens_in(flat)
        live = LiveTokens.of(group.weights, chunk_size)

        def chunk(number: Array) -> tuple[Array, Any]:
            indices, (states, part) = live.take(number, (x, group))
            logits = capped_logits(states, rows, logit_cap)
            return indices, measure(logits, part.labels, columns)

        def step(number: Array, found: Any) -> Any:
            indices, results = chunk(number)
            return jax.tree.map(
                lambda total, part: total.at[indices].set(
                    part, mode="drop", unique_indices=True
                ),
                found,
                results,
            )

        shapes = jax.eval_shape(lambda: chunk(jnp.zeros((), jnp.int32))[1])
        start = jax.tree.map(
            lambda part: jnp.zeros((group.weights.size, *part.shape[1:]), part.dtype),
            shapes,
        )
        found = jax.lax.fori_loop(0, layout.trips(live.chunks), step, start)

        def own(x: Array) -> Array:
            # The last chunk is padded with masked tokens.
            is_live = (group.weights > 0).reshape(-1, *[1] * (x.ndim - 1))
            x = layout.local_tokens(jnp.where(is_live, x, 0))
            return x.reshape(*batch.labels.shape, *x.shape[1:])

        return (jax.tree.map(own, found),)

    batch = Batch(labels, mask.astype(jnp.float32), {}, {})
    arguments = jax.tree.map(stop_gradient, (hidden, head, batch))
    return layout.run(local, ("tokens",), *arguments, {})[0]
