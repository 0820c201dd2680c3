"""When a run saves, and which of its checkpoints stay."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orbax.checkpoint as ocp

from targetsft_jax.config.schema import VALIDATION_PREFIX


@dataclass(frozen=True)
class Retention:
    """Which checkpoints stay; one that any of these names does.

    Attributes:
        newest: so many of the newest.
        every: those of steps that are a multiple of it, for ever.
        best: a metric; the one where it was lowest.
    """

    newest: int = 2
    every: int | None = None
    best: str | None = None

    def options(self) -> dict[str, Any]:
        """As arguments of Orbax's CheckpointManagerOptions."""
        managers = ocp.checkpoint_managers
        policies: list[Any] = [managers.LatestN(self.newest)]
        if self.every is not None:
            policies.append(managers.EveryNSteps(self.every))
        chosen: dict[str, Any] = {}
        if self.best is not None:
            policies.append(
                managers.BestN(
                    get_metric_fn=lambda metrics: -metrics["value"],
                    n=1,
                    keep_checkpoints_without_metrics=False,
                )
            )
            # Without it Orbax keeps no metrics.
            chosen = {"best_fn": lambda metrics: metrics["value"], "best_mode": "min"}
        any_of = managers.AnyPreservationPolicy(policies)
        return {"preservation_policy": any_of, **chosen}

    def judged(self, metrics: Mapping[str, Any]) -> dict[str, float] | None:
        """What is kept of a step's metrics to find the best; None where it has none.

        Raises:
            ValueError: no step has such a metric. Those of held-out data are not
                measured in every step.
        """
        if self.best is None:
            return None
        if self.best.startswith(VALIDATION_PREFIX) and self.best not in metrics:
            return None
        if self.best not in metrics:
            raise ValueError(
                f"train.keep_best is {self.best!r}, and steps have no such metric; "
                f"expected one of {', '.join(sorted(metrics))}, or null"
            )
        value = float(metrics[self.best])
        return {"value": value} if math.isfinite(value) else None


class SaveTimer:
    """Whether the time between saves is over; says so once.

    Args:
        minutes: between saves; None: never.
        clock: seconds.
    """

    def __init__(
        self, minutes: float | None, clock: Callable[[], float] = time.monotonic
    ):
        self._seconds = math.inf if minutes is None else 60 * minutes
        self._clock = clock
        self._since = clock()
        self._again = math.inf

    def due(self) -> bool:
        """Asked once a step."""
        now = self._clock()
        if now - self._since < self._seconds and now < self._again:
            return False
        self.restart()
        return True

    def restart(self) -> None:
        """At a save for any other reason."""
        self._since, self._again = self._clock(), math.inf

    def again(self, seconds: float) -> None:
        """Due after so long at the latest: a save has failed."""
        self._again = self._clock() + seconds
