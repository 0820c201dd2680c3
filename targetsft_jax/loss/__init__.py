"""From hidden states and heads to a loss; imports `targets` only."""

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
