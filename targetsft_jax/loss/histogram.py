"""Histograms of statistics over tokens, counted chunk by chunk."""

import jax.numpy as jnp
import numpy as np
from jax import Array

BINS = 20

EDGES = {
    "gamma": np.linspace(0, 1, BINS + 1),
    "label_prob": np.linspace(0, 1, BINS + 1),
    "entropy": np.linspace(0, 5, BINS + 1),
}
"""Bin edges of each statistic, [BINS + 1]. The first and the last bin are open: they
also count values below and above (γ of iw-SFT and of a negative α; an entropy of more
than 5 nats)."""


def histogram(values: Array, weights: Array, edges: np.ndarray) -> Array:
    """Σ weights of the values in each bin: [BINS] in the weights' dtype.

    Args:
        values: statistic of each token [C]; any value where the weight is 0.
        weights: [C].
        edges: [BINS + 1], rising; a value on an edge is in the bin that starts there.
    """
    # Comparisons with the inner edges, not a scatter: C × BINS comparisons cost less
    # than one row of logits, and scatters are slow on accelerators.
    above = values[:, None] >= jnp.asarray(edges[1:-1], values.dtype)
    inside = jnp.pad(above, [(0, 0), (1, 0)], constant_values=True)
    beyond = jnp.pad(above, [(0, 0), (0, 1)], constant_values=False)
    return jnp.sum(jnp.where(inside & ~beyond, weights[:, None], 0), axis=0)
