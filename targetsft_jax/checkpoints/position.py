"""Position in the data at which a checkpoint was saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Position:
    """Position in the data; the batches that follow are a function of it.

    Attributes:
        step: the next optimizer step.
        seed: of the order of batches.
        batch_size: rows per optimizer step.
        fingerprint: of the packed rows.
    """

    step: int
    seed: int
    batch_size: int
    fingerprint: str

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Differences of a checkpoint's position, in everything but its step."""
        return [
            f"{key} was {saved.get(key)!r} and is {value!r}"
            for key, value in vars(self).items()
            if key != "step" and saved.get(key) != value
        ]
