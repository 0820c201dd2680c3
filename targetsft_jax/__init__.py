"""targetsft-jax: supervised fine-tuning as target distribution design.

The functional API takes arrays and returns arrays. Importing the package touches no
device, environment variable, file or network.
"""

from targetsft_jax.loss import fused_loss
from targetsft_jax.targets import (
    METHODS,
    QTarget,
    induced_target,
    objective,
    target,
    trajectory_weight,
)

__version__ = "0.1.0"

__all__ = [
    "METHODS",
    "QTarget",
    "fused_loss",
    "induced_target",
    "objective",
    "target",
    "trajectory_weight",
]
