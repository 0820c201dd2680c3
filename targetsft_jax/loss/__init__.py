"""Fused losses: hidden states and heads in, a loss and its metrics out.

Logits exist one chunk of tokens at a time, forward and backward; the vocabulary may be
sharded over a mesh. No method is special-cased: `targets` supplies the normal form.
Imports `targets`, and `parallel.rules` for heads that are stored on a mesh.
"""

from targetsft_jax.loss.fused import fused_loss
from targetsft_jax.loss.logprob import label_logprob
from targetsft_jax.loss.reference import reference_loss
from targetsft_jax.loss.second import Mixture
from targetsft_jax.loss.sharded import MeshLayout
from targetsft_jax.loss.stored import top_k_tokens
from targetsft_jax.targets.top_k import TopK

__all__ = [
    "MeshLayout",
    "Mixture",
    "TopK",
    "fused_loss",
    "label_logprob",
    "reference_loss",
    "top_k_tokens",
]
