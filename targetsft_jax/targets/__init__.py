"""Targets: what a loss teaches. Pure functions of arrays; imports jax only."""

from targetsft_jax.targets.api import induced_target, objective, target
from targetsft_jax.targets.methods import METHODS, Method
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.trajectory import trajectory_weight

__all__ = [
    "METHODS",
    "Method",
    "QTarget",
    "induced_target",
    "objective",
    "target",
    "trajectory_weight",
]
