"""Telemetry of a training: metrics, progress, goodput, anomalies and profile.

telemetry = Telemetry(run_dir, steps=steps, start=start, …)
for number in range(start + 1, steps + 1):
    batch = telemetry.next_batch(batches)
    with telemetry.dispatch(number):
        state, metrics = step(state, frozen, batch)
    telemetry.step(number, metrics)
telemetry.flush()
telemetry.close()
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, TypeVar

import jax

from targetsft_jax.config.schema import LogConfig, TrainConfig
from targetsft_jax.parallel import processes
from targetsft_jax.storage.disk_full import lacks_space
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.anomalies import Anomalies
from targetsft_jax.telemetry.goodput import Clock
from targetsft_jax.telemetry.log import RunLog
from targetsft_jax.telemetry.profiler import ProfilerWindow
from targetsft_jax.telemetry.sinks import make_sinks

T = TypeVar("T")
Metrics = dict[str, Any]


class Telemetry:
    """Interface of the training loop to all telemetry.

    The metrics of a step are fetched after the next step is dispatched, so that devices
    never wait for the host. Every process has an instance and counts skipped steps;
    only the primary process writes and prints.

    Args:
        run_dir: run directory.
        steps: last optimizer step of the run.
        start: last step of earlier sessions.
        train: cadence of the lines, spikes, limit of skipped steps.
        log: sinks and profiler window.
        examples_of: step -> examples in its rows, as `file:line`; called for skipped
            steps and spikes.
        about: resolved configuration, recorded with the metrics.
        began: `time.perf_counter()` at the start of the session; None: now.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        steps: int,
        start: int,
        train: TrainConfig,
        log: LogConfig,
        examples_of: Callable[[int], list[str]],
        about: Mapping[str, Any] | None = None,
        began: float | None = None,
    ):
        self._first, self._max_skipped = start + 1, train.max_skipped_steps
        self._profile_steps = log.profile_steps
        self._pending: tuple[int, Any] | None = None
        self._skipped = 0
        self._log: RunLog | None = None
        self._anomalies: Anomalies | None = None
        profile_from = None
        if processes.is_primary():
            profile_from = log.profile_from
            self._log = RunLog(
                run_dir,
                steps=steps,
                start=start,
                every=train.log_every,
                sinks=make_sinks(log, run_dir, start, about or {}),
                began=began,
            )
            self._anomalies = Anomalies(
                run_dir, start, train, examples_of=examples_of, message=self.message
            )
        self._clock = (
            Clock(run_dir, resumed=start > 0, began=began)
            if self._log is None
            else self._log.clock
        )
        self._profiler = ProfilerWindow(run_dir, profile_from, log.profile_steps)

    def lost_to(self, cause: str) -> AbstractContextManager[None]:
        """Count the time inside the context under one of `goodput.CAUSES`."""
        return self._clock.lost_to(cause)

    def next_batch(self, batches: Iterator[T]) -> T:
        """Return the next batch; the wait counts as lost to `data`."""
        with self.lost_to("data"):
            return next(batches)

    @contextmanager
    def dispatch(self, number: int) -> Iterator[None]:
        """Context for dispatching step `number`: profiler window and compile time.

        The first dispatch of a session counts as lost to `compile`.
        """
        self._profiler.before(number)
        with self.lost_to("compile") if number == self._first else nullcontext():
            yield

    def step(self, number: int, metrics: Any) -> Metrics | None:
        """Buffer the metrics of a dispatched step; record those of the previous step.

        Args:
            number: 1-based step.
            metrics: device arrays by name, including `loss`, `tokens`, `skipped`.

        Returns:
            Host metrics of the previous step; None if no step was pending.

        Raises:
            ValueError: `train.max_skipped_steps` consecutive steps were skipped.
        """
        recorded = None if self._pending is None else self.flush()
        self._pending = number, metrics
        if (folder := self._profiler.after(number, metrics)) is not None:
            self.message(f"profile of {self._profile_steps} steps in {folder}")
        return recorded

    def flush(self, extra: Mapping[str, float] | None = None) -> Metrics:
        """Record the pending step.

        Args:
            extra: additional metrics of the step, such as held-out ones.

        Returns:
            Host metrics of the step, with `spike` in the primary process.

        Raises:
            RuntimeError: no step is pending.
            ValueError: `train.max_skipped_steps` consecutive steps were skipped.
        """
        if self._pending is None:
            raise RuntimeError("no step is pending; call `step` first")
        number, pending = self._pending
        self._pending = None
        metrics: Metrics = jax.device_get(pending) | dict(extra or {})
        if self._log is not None and self._anomalies is not None:
            metrics |= self._anomalies.check(metrics)
            with self._full_disk_is_reported(number):
                self._anomalies.record(number, metrics)
            with self._full_disk_is_reported(number):
                self._log.write(number, metrics)
        self._skipped = self._skipped + 1 if metrics["skipped"] else 0
        if self._skipped == self._max_skipped:
            raise ValueError(_diverged(number, self._skipped))
        return metrics

    def message(self, text: str) -> None:
        """Print a line in the primary process, above the bar if there is one."""
        if self._log is not None:
            self._log.message(text)

    def close(self) -> None:
        """Write an open profile, print summaries, flush; a pending step is dropped."""
        with ExitStack() as stack:
            if self._log is not None:
                stack.callback(self._log.close)
            if self._anomalies is not None:
                stack.callback(self._anomalies.close)
            stack.callback(self._profiler.close)

    @contextmanager
    def _full_disk_is_reported(self, number: int) -> Iterator[None]:
        """Report a full disk instead of raising; the metrics stay buffered."""
        try:
            yield
        except OSError as error:
            if not lacks_space(error):
                raise
            self.message(
                f"step {number}: disk full; its metrics are written when there is space"
            )


def _diverged(number: int, skipped: int) -> str:
    return (
        f"loss or gradient was not finite in {skipped} consecutive steps, "
        f"{number - skipped + 1} to {number}; the parameters did not change. "
        "metrics.jsonl has the earlier steps. Lower train.learning_rate or "
        "train.clip_norm, inspect the examples of these steps in anomalies.jsonl, or "
        "raise train.max_skipped_steps"
    )
