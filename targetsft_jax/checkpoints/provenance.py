"""Provenance of a checkpoint: configuration, frozen models and package versions."""

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from targetsft_jax.checkpoints.checksums import array_checksums
from targetsft_jax.storage.digest import json_digest
from targetsft_jax.versions import TRAINING, installed_versions


def identity(params: Any) -> str:
    """Hash of a model's parameters, 16 hex digits.

    It is computed from the arrays on the devices, so that it changes if a file is
    replaced under the same name. It depends on the dtype, not on the mesh.
    """
    return json_digest(array_checksums(params))


def digest(tree: Mapping[str, Any]) -> str:
    """Hash of a provenance as it is stored, 16 hex digits.

    The position of a checkpoint holds it, so that the two belong together.
    """
    return json_digest(json.loads(json.dumps(tree)))


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
    versions: Mapping[str, str] = field(
        default_factory=functools.partial(installed_versions, TRAINING)
    )

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
