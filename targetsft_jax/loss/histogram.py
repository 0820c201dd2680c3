"""Histograms of per-token statistics, accumulated chunk by chunk."""

import jax.numpy as jnp
import numpy as np
from jax import Array

BINS = 20

PREFIX = "histogram_"
"""Metric `histogram_NAME` [BINS] is the distribution of the metric NAME over tokens."""

EDGES = {
    "gamma": np.linspace(0, 1, BINS + 1),
    "label_prob": np.linspace(0, 1, BINS + 1),
    "entropy": np.linspace(0, 5, BINS + 1),
}
"""Bin edges [BINS + 1] by statistic. The outermost bins are open: they also count
values below and above (γ of iw-SFT and of a negative α; an entropy above 5 nats)."""


def histogram(values: Array, weights: Array, edges: np.ndarray) -> Array:
    """Sum of the weights in each bin: [BINS] in the weights' dtype.

    Args:
        values: [C]; ignored where the weight is 0. NaN is in no bin.
        weights: [C].
        edges: [BINS + 1], increasing; a value on an edge is in the bin above it.
    """
    # Comparisons with the inner edges, since scatters are slow on accelerators; their
    # C × BINS entries are few compared with the chunk's C × V logits.
    above = values[:, None] >= jnp.asarray(edges[1:-1], values.dtype)
    inside = jnp.pad(above, [(0, 0), (1, 0)], constant_values=True)
    beyond = jnp.pad(above, [(0, 0), (0, 1)], constant_values=False)
    counts = inside & ~beyond & ~jnp.isnan(values)[:, None]
    return jnp.sum(jnp.where(counts, weights[:, None], 0), axis=0)
