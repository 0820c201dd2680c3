"""Position in the data at which a checkpoint was saved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Position:
    """Position in the data, which determines all batches that follow.

    Attributes:
        step: the next optimizer step.
        seed: seed of the row order.
        batch_size: rows per optimizer step.
        fingerprint: SHA-256 of the packed rows.
    """

    step: int
    seed: int
    batch_size: int
    fingerprint: str

    def differences(self, saved: Mapping[str, Any]) -> list[str]:
        """Fields other than `step` in which a checkpoint's position differs."""
        return [
            f"{key} was {saved.get(key)!r} and is {value!r}"
            for key, value in vars(self).items()
            if key != "step" and saved.get(key) != value
        ]
