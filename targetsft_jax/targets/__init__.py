"""Targets: the distributions that losses teach. Pure functions of arrays.

Every method is one function that returns the normal form g = a(p − δ_y) + b(p − T).
Imports jax, and `keys` for the domains of hyper-parameters.
"""

from targetsft_jax.targets.api import induced_target, objective, target
from targetsft_jax.targets.method import Hyper, Method
from targetsft_jax.targets.methods import METHODS
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.top_k import TopK, completed_logits, top_k
from targetsft_jax.targets.trajectory import trajectory_weight

__all__ = [
    "METHODS",
    "Hyper",
    "Method",
    "QTarget",
    "TopK",
    "completed_logits",
    "induced_target",
    "objective",
    "target",
    "top_k",
    "trajectory_weight",
]
