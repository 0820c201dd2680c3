"""Losses from hidden states and heads, without a [tokens, V] array.

Imports `targets`, and `parallel.rules` for heads that are stored on a mesh.
"""

from targetsft_jax.loss.fused import fused_loss
from targetsft_jax.loss.logprob import label_logprob
from targetsft_jax.loss.reference import reference_loss
from targetsft_jax.loss.sharded import MeshLayout

__all__ = [
    "MeshLayout",
    "fused_loss",
    "label_logprob",
    "reference_loss",
]
