"""How a statistic is spread over tokens, counted chunk by chunk."""

import jax.numpy as jnp
import numpy as np
from jax import Array

BINS = 20

EDGES = {
    "gamma": np.linspace(0, 1, BINS + 1),
    "label_prob": np.linspace(0, 1, BINS + 1),
    "entropy": np.linspace(0, 5, BINS + 1),
}
"""Where the bins of each statistic begin and end, [BINS + 1]. The first and the last
one are open: they count what lies below and above, too (γ of iw-SFT, of a negative α;
an entropy of more than 5 nats)."""


def histogram(values: Array, weights: Array, edges: np.ndarray) -> Array:
    """Σ weights of the values in each bin: [BINS] in the weights' dtype.

    Args:
        values: of tokens [C]; one without a weight may be anything.
        weights: [C].
        edges: [BINS + 1], rising; a value on an edge is in the bin that begins there.
    """
    # Comparisons with the inner edges, not a scatter: all of C × BINS is next to
    # nothing beside one row of logits, and accelerators dislike scatters.
    above = values[:, None] >= jnp.asarray(edges[1:-1], values.dtype)
    inside = jnp.pad(above, [(0, 0), (1, 0)], constant_values=True)
    beyond = jnp.pad(above, [(0, 0), (0, 1)], constant_values=False)
    return jnp.sum(jnp.where(inside & ~beyond, weights[:, None], 0), axis=0)
