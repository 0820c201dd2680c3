"""targetsft-jax: supervised fine-tuning as target distribution design.

The functional API takes arrays and returns arrays; `load` opens a model for
interactive use. Importing the package touches no device, environment variable, file or
network, and jax is imported with the first name of the API: worker processes that grade
answers do without it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from targetsft_jax.versions import __version__ as __version__

if TYPE_CHECKING:
    from targetsft_jax.interactive import load
    from targetsft_jax.loss import fused_loss
    from targetsft_jax.targets import (
        METHODS,
        QTarget,
        induced_target,
        objective,
        target,
        trajectory_weight,
    )

__all__ = [
    "METHODS",
    "QTarget",
    "fused_loss",
    "induced_target",
    "load",
    "objective",
    "target",
    "trajectory_weight",
]

_PACKAGES = {"fused_loss": "loss", "load": "interactive"}
"""Name -> its package; that of the others is `targets`."""


def __getattr__(name: str) -> Any:
    """Import a name of the functional API with its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = _PACKAGES.get(name, "targets")
    module = importlib.import_module(f"targetsft_jax.{package}")
    return globals().setdefault(name, getattr(module, name))
