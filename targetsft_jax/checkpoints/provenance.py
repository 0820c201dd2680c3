"""Provenance of a checkpoint: configuration, frozen models and package versions."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from targetsft_jax.checkpoints.checksums import array_checksums

PACKAGES = ("targetsft-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect the numbers of a training."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def identity(params: Any) -> str:
    """Hash of a model's parameters, 16 hex digits.

    It is computed from the arrays on the devices, so that it changes if a file is
    replaced under the same name. It depends on the dtype, not on the mesh.
    """
    text = json.dumps(array_checksums(params), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest(tree: Mapping[str, Any]) -> str:
    """Hash of a provenance as it is stored, 16 hex digits.

    The position of a checkpoint holds it, so that the two belong together.
    """
    stored = json.loads(json.dumps(tree))
    text = json.dumps(stored, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Provenance:
    """Inputs of a run other than its data.

    Attributes:
        config: the configuration of the run.
        frozen: the `identity` of each frozen model, by role.
        versions: versions of Python and packages.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)

    def refusals(self, saved: Mapping[str, Any]) -> list[str]:
        """Differences from `saved` for which its checkpoint is refused."""
        before = saved.get("frozen", {})
        return [
            f"the frozen {role} has other weights: they were {before[role]} and are "
            f"{current}"
            for role, current in self.frozen.items()
            if role in before and before[role] != current
        ]

    def notes(self, saved: Mapping[str, Any]) -> list[str]:
        """Differences from `saved` that are allowed: losses may change by rounding."""
        before = saved.get("versions", {})
        return [
            f"{name} was {before[name]} and is {current}"
            for name, current in self.versions.items()
            if name in before and before[name] != current
        ]
