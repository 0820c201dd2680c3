"""Versions of Python and of the packages that results depend on."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

__version__ = "0.1.0"

TRAINING = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
"""Packages that affect the numbers of a training."""

MODEL = (*TRAINING, "transformers", "tokenizers", "numpy")
"""Packages that affect a model and its tokens."""


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of Python, of this package and of other packages, if installed."""
    versions = {"python": platform.python_version(), "targetsft-jax": __version__}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
