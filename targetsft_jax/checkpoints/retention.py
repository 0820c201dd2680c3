"""Retention rules for checkpoints, and the timer between saves."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orbax.checkpoint as ocp

from targetsft_jax.config.schema import VALIDATION_PREFIX


@dataclass(frozen=True)
class Retention:
    """Retention rules: a checkpoint stays if any rule selects it.

    Attributes:
        newest: number of newest checkpoints to retain.
        every: retain steps that are a multiple of this.
        best: name of a metric; retain the checkpoint with its lowest value.
    """

    newest: int = 2
    every: int | None = None
    best: str | None = None

    def options(self) -> dict[str, Any]:
        """The rules as arguments of Orbax's CheckpointManagerOptions."""
        managers = ocp.checkpoint_managers
        policies: list[Any] = [managers.LatestN(self.newest)]
        if self.every is not None:
            policies.append(managers.EveryNSteps(self.every))
        best_options: dict[str, Any] = {}
        if self.best is not None:
            policies.append(
                managers.BestN(
                    get_metric_fn=lambda metrics: -metrics["value"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
            # Orbax stores no metrics without these options.
            best_options = {
                "best_fn": lambda metrics: metrics["value"],
                "best_mode": "min",
            }
        any_of = managers.AnyPreservationPolicy(policies)
        return {"preservation_policy": any_of, **best_options}

    def judged(self, metrics: Mapping[str, Any]) -> dict[str, float] | None:
        """Metric `best` in Orbax's form; None if the step has no finite value of it.

        Validation metrics are not measured at every step.

        Raises:
            ValueError: no metric of this name.
        """
        if self.best is None:
            return None
        if self.best.startswith(VALIDATION_PREFIX) and self.best not in metrics:
            return None
        scalars = {name for name, value in metrics.items() if np.ndim(value) == 0}
        if self.best not in scalars:
            raise ValueError(
                f"train.keep_best is {self.best!r}, which is not a metric of a step; "
                f"expected one of {', '.join(sorted(scalars))}, or null"
            )
        value = float(metrics[self.best])
        return {"value": value} if math.isfinite(value) else None


class SaveTimer:
    """Timer of the interval between saves.

    Args:
        minutes: interval between saves; None: never due.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ):
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._clock = clock
        self._since = clock()
        self._retry_at = math.inf

    def due(self) -> bool:
        """True if the interval has elapsed, which then restarts."""
        now = self._clock()
        if now - self._since < self._seconds and now < self._retry_at:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """Restart the interval, after a save for another reason."""
        self._since, self._retry_at = self._clock(), math.inf

    def again(self, seconds: float) -> None:
        """Make a save due within `seconds`, after a failed one."""
        self._retry_at = self._clock() + seconds
