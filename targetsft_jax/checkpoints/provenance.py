"""What a checkpoint came from: kept beside its arrays, and compared when it is read."""

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
    """Of Python and of the packages that a training's numbers come from."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def identity(params: Any) -> str:
    """Of a model's parameters, 16 hex digits: those of other arrays differ.

    It is taken of what is on the devices, so that a file that was replaced under the
    same name is another model. The mesh does not matter; the dtype does.
    """
    text = json.dumps(array_checksums(params), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Provenance:
    """What a checkpoint came from.

    Attributes:
        config: what the run was asked for.
        frozen: the `identity` of each frozen model, by its role.
        versions: as `versions` has them.
    """

    config: Mapping[str, Any] = field(default_factory=dict)
    frozen: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions)

    def refusals(self, kept: Mapping[str, Any]) -> list[str]:
        """Why a checkpoint that came from `kept` cannot be gone on with here."""
        before = kept.get("frozen", {})
        return [
            f"the frozen {role} has other weights: they were {before[role]} and are "
            f"{found}"
            for role, found in self.frozen.items()
            if role in before and before[role] != found
        ]

    def notes(self, kept: Mapping[str, Any]) -> list[str]:
        """What differs and may differ: it changes numbers by rounding at most."""
        before = kept.get("versions", {})
        return [
            f"{name} was {before[name]} and is {found}"
            for name, found in self.versions.items()
            if name in before and before[name] != found
        ]
