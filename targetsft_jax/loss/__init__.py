"""Fused losses: hidden states and heads in, a loss and its metrics out.

Logits exist one chunk of tokens at a time, forward and backward; the vocabulary may be
sharded over a mesh. No method is special-cased: `targets` supplies the normal form.
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
