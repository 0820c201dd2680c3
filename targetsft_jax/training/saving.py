"""Checkpoint cadence: by steps, by minutes, of the best metric, and at the end."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

import jax

from targetsft_jax.checkpoints.manager import Checkpoints
from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.retention import Retention, SaveTimer
from targetsft_jax.config.schema import (
    VALIDATION_PREFIX,
    Config,
    ConfigError,
    TrainConfig,
)
from targetsft_jax.keys import shown
from targetsft_jax.parallel import processes
from targetsft_jax.storage import disk_full
from targetsft_jax.targets.inputs import INPUTS
from targetsft_jax.telemetry.metrics import selecting_names
from targetsft_jax.telemetry.telemetry import Telemetry
from targetsft_jax.training.state import TrainState, arrays_of


def check_keep_best(config: Config) -> None:
    """Check that the metric of `train.keep_best` exists and is one number.

    Raises:
        ConfigError: it is not a metric of the method's train step.
    """
    name, method = config.train.keep_best, config.method
    inputs = method.method.inputs(**method.hyper)
    names = selecting_names(
        key.removesuffix("_logits") for key in inputs if INPUTS[key].per == "model"
    )
    if not (config.validation.examples or config.validation.data):
        names = [each for each in names if not each.startswith(VALIDATION_PREFIX)]
    if name is not None and name not in names:
        raise ConfigError(
            f"train.keep_best is {shown(name)}; expected one of {', '.join(names)}, or "
            "null"
        )


BACKGROUND_BYTES = 2**28
"""Largest state on CPUs that is saved in the background."""


class Saver:
    """Save the train state by cadence; on exit, wait for pending saves.

    Args:
        checkpoints: checkpoints of the run.
        retention: rules of retention.
        position: data position; its step is replaced at each save.
        config: cadence of checkpoints.
        steps: last optimizer step of the run.
        telemetry: counts the time and prints messages.
        before_save: called before each checkpoint.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        retention: Retention,
        position: Position,
        config: TrainConfig,
        steps: int,
        telemetry: Telemetry,
        before_save: Callable[[], None] = lambda: None,
    ):
        self._checkpoints, self._retention = checkpoints, retention
        self._position, self._config, self._steps = position, config, steps
        self._telemetry = telemetry
        self._before_save = before_save
        self._timer = SaveTimer(config.save_minutes)
        self._errors: list[str] = []

    def interval_elapsed(self) -> bool:
        """Return whether `save_minutes` have passed; False except in process 0."""
        return processes.is_primary() and self._timer.due()

    def scheduled(self, step: int) -> bool:
        """Return whether `save_every` divides the step, or it is the last one."""
        return step % self._config.save_every == 0 or step == self._steps

    def may_be_best(self, validation_metrics: Mapping[str, float]) -> bool:
        """Return whether the metrics include that of `train.keep_best`."""
        return self._config.keep_best in validation_metrics

    def check_metrics(self, metrics: Mapping[str, Any] | None) -> None:
        """Check that the metric of `train.keep_best` exists.

        Called for every recorded step, so that a misspelt name ends the run at its
        first step.

        Args:
            metrics: metrics of a step; None: no step was recorded.

        Raises:
            ValueError: steps have no metric of that name.
        """
        if metrics is not None:
            self._retention.judged(metrics)

    def save(
        self, state: TrainState, step: int, metrics: Mapping[str, Any], *, final: bool
    ) -> None:
        """Save a checkpoint; wait for it if `final` or after the last step."""
        position = replace(self._position, step=step)
        arrays = arrays_of(state)
        self._timer.restart()
        with self._telemetry.lost_to("save"):
            self._before_save()
            if final or step == self._steps:
                self._checkpoints.save_last(
                    arrays, position, metrics, self._telemetry.message
                )
            else:
                self._errors += self._checkpoints.save(arrays, position, metrics)
                if _is_copied(arrays):
                    self._errors += self._checkpoints.wait()

    def report_errors(self) -> None:
        """Print the errors of failed saves and schedule a retry."""
        errors = [*self._checkpoints.errors(), *self._errors]
        self._errors.clear()
        for message in errors:
            self._telemetry.message(message)
            self._timer.again(disk_full.RETRY_SECONDS)

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._telemetry.lost_to("save"):
            self._checkpoints.close()


def _is_copied(arrays: Any) -> bool:
    """True if a save in the background costs the memory of a second, large state.

    On CPUs a save reads the buffers of the state, which the next step can then not
    update in place: for the time of the save there are two states.
    """
    leaves = jax.tree.leaves(arrays)
    on_cpu = any(d.platform == "cpu" for leaf in leaves[:1] for d in leaf.devices())
    return on_cpu and sum(leaf.nbytes for leaf in leaves) > BACKGROUND_BYTES
