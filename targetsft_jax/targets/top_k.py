"""Second models known by their k most probable tokens: a completed distribution.

A stored teacher has the log-probabilities of k tokens K and the mass m of all others.
Dropping the tail and renormalising K would pull the student towards a truncated
teacher, with a divergence that may be negative. Here the tail has the student's own
shape, scaled to the teacher's mass:

    π̂(v) = π(v)             for v in K
    π̂(v) = m · p(v) / p(∉K)  for all others

Then KL(π̂ ‖ p) is the divergence of the coarse distribution over K and "other": never
negative, and a lower bound of KL(π ‖ p). Outside K the completed logits are the
student's plus one number per token. π̂ is constant in θ, like every alternative.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.lax import stop_gradient

from targetsft_jax.targets.rows import compute_dtype


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TopK:
    """The most probable tokens of a frozen model, and the mass of all others.

    Attributes:
        ids: [..., k] int, different tokens of the vocabulary.
        log_probs: [..., k] float, their log-probabilities, normalised over the full
            vocabulary.
        log_rest: [...] float, log of the mass of all other tokens; −inf for none.
    """

    ids: Array
    log_probs: Array
    log_rest: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tokens [...]."""
        return tuple(self.log_rest.shape)


def top_k(logits: Array, k: int) -> TopK:
    """The k most probable tokens of logits [..., V].

    Args:
        logits: [..., V], any float dtype.
        k: number of tokens, from 1 to V.

    Returns:
        Tokens from the most to the least probable. The mass of the rest is a sum over
        the rest, not 1 minus a sum, so that it is accurate where it is small.

    Example:
        >>> import jax.numpy as jnp
        >>> stored = top_k(jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]])), 2)
        >>> stored.ids[0].tolist(), f"{jnp.exp(stored.log_rest[0]):.2f}"
        ([3, 2], '0.30')
    """
    logits = logits.astype(compute_dtype(logits))
    values, ids = jax.lax.top_k(logits, k)
    total = jax.nn.logsumexp(logits, axis=-1)
    chosen = at_tokens(jnp.zeros(logits.shape, bool), ids, True)
    rest = jax.nn.logsumexp(jnp.where(chosen, -jnp.inf, logits), axis=-1)
    return TopK(ids.astype(jnp.int32), values - total[..., None], rest - total)


def completed_logits(
    logits: Array,
    stored: TopK,
    *,
    first: Array | int = 0,
    merged: Callable[[Array], Array] = lambda log_sum: log_sum,
) -> Array:
    """Log-probabilities [..., V] of the completed distribution π̂, constant in θ.

    Args:
        logits: student logits [..., V], or a device's columns of them.
        stored: the second model's tokens.
        first: vocabulary index of the first column.
        merged: log-sums [...] over this device's columns -> over all columns.

    Example:
        A student without an opinion shares the teacher's remaining mass evenly:

        >>> import jax.numpy as jnp
        >>> stored = TopK(
        ...     jnp.array([[3]]), jnp.log(jnp.array([[0.4]])), jnp.log(jnp.array([0.6]))
        ... )
        >>> completed = jnp.exp(completed_logits(jnp.zeros((1, 4)), stored))
        >>> [f"{mass:.2f}" for mass in completed[0]]
        ['0.20', '0.20', '0.20', '0.40']
    """
    logits = stop_gradient(logits.astype(compute_dtype(logits)))
    values = stored.log_probs.astype(logits.dtype)
    absent = jnp.full(logits.shape, jnp.inf, logits.dtype)
    table = at_tokens(absent, stored.ids, values, first)
    is_stored = table < jnp.inf
    rest = jnp.where(is_stored, -jnp.inf, logits)
    log_sum = merged(jax.nn.logsumexp(rest, axis=-1))
    # A student without mass outside K cannot give the rest a shape.
    shift = stored.log_rest - jnp.where(log_sum == -jnp.inf, 0, log_sum)
    return stop_gradient(jnp.where(is_stored, table, rest + shift[..., None]))


def at_tokens(
    table: Array, ids: Array, values: Array | bool, first: Array | int = 0
) -> Array:
    """A table [..., v] with values at the columns of tokens, those outside dropped.

    Args:
        table: columns of the vocabulary.
        ids: [..., k] int, different tokens.
        values: [..., k], or one for all.
        first: vocabulary index of the first column.
    """
    width = table.shape[-1]
    flat, columns = table.reshape(-1, width), (ids - first).reshape(-1, ids.shape[-1])
    # `at` would count negative indices from the end; those past the end are dropped.
    columns = jnp.where(columns < 0, width, columns)
    rows = jnp.arange(len(flat))[:, None]
    if not isinstance(values, bool):
        values = values.reshape(columns.shape)
    return flat.at[rows, columns].set(values, mode="drop").reshape(table.shape)


def checked_top_k(name: str, stored: TopK, tokens: tuple[int, ...]) -> TopK:
    """The arrays of a stored second model, with shapes that fit the tokens.

    Raises:
        ValueError: other shapes or dtypes.
    """
    ids, log_probs, log_rest = (
        x if hasattr(x, "dtype") else np.asarray(x)
        for x in (stored.ids, stored.log_probs, stored.log_rest)
    )
    fits = ids.shape == log_probs.shape and ids.shape[:-1] == log_rest.shape == tokens
    if not fits or ids.ndim != len(tokens) + 1:
        raise ValueError(
            f"{name}'s ids {ids.shape}, log_probs {log_probs.shape} and log_rest "
            f"{log_rest.shape} do not fit the labels {tokens}: expected {tokens} and "
            "one more axis for ids and log_probs"
        )
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name}'s ids are {ids.dtype}; expected integers")
    return TopK(*(jnp.asarray(x) for x in (ids.astype(np.int32), log_probs, log_rest)))
