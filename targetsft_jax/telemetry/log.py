"""Log of a run: metrics.jsonl, histograms.jsonl, sinks and printed lines."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from targetsft_jax.loss.histogram import EDGES, PREFIX
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.goodput import Clock
from targetsft_jax.telemetry.progress import Progress
from targetsft_jax.telemetry.sinks import Sink

_PACE_STEPS = 200
"""Recent steps that the estimate of the remaining time averages over."""


class RunLog:
    """Write a row per step, and every `every` steps a printed line and histograms.

    Args:
        run_dir: run directory.
        steps: last optimizer step of the run.
        start: last step of earlier sessions; rows of later steps are dropped.
        every: steps between printed lines, and between histograms.
        sinks: additional receivers of the metrics.
        began: `time.perf_counter()` at the start of the session; None: now.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        steps: int,
        start: int,
        every: int,
        sinks: Sequence[Sink] = (),
        began: float | None = None,
    ):
        self._steps, self._every = steps, every
        dropped = jsonl.truncate_after(run_dir.metrics, start)
        jsonl.truncate_after(run_dir.histograms, start)
        redone = sum(_seconds(row) for row in dropped)
        self.clock = Clock(run_dir, resumed=start > 0, redone=redone, began=began)
        self._metrics = jsonl.Writer(run_dir.metrics)
        self._histograms = jsonl.Writer(run_dir.histograms)
        self._sinks = sinks
        self._progress = Progress(steps=steps, start=start)
        self._last, self._lost = time.perf_counter(), self.clock.lost()
        self._waited = self.clock.lost("data")
        self._pace: list[float] = []
        if start:
            self.message(f"resumed from the checkpoint of step {start}")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record the metrics of a 1-based step; they are host values."""
        scalars, histograms = _split(metrics)
        row = {"step": step} | scalars | self._timing(scalars["tokens"])
        self._pace.append(row["seconds"])
        self._metrics.append(row)
        values = {name: value for name, value in row.items() if name != "step"}
        for sink in self._sinks:
            sink.scalars(step, values)
        due = step % self._every == 0 or step == self._steps or len(self._pace) == 1
        if due or "validation_loss" in row:
            self._write_histograms(step, histograms)
            self._progress.line(row, remaining=self._remaining(step))
        self._progress.advance(row)
        self.clock.write(now=step == self._steps)

    def message(self, text: str) -> None:
        """Print a line, above the progress bar if there is one."""
        self._progress.message(text)

    def close(self) -> None:
        """Flush and close the files and sinks; print the goodput."""
        self._metrics.close()
        self._histograms.close()
        self.clock.write(now=True)
        self._progress.close()
        if self._pace:
            self.message(self.clock.summary())
        for sink in self._sinks:
            sink.close()

    def _timing(self, tokens: float) -> dict[str, float]:
        """Compute the time metrics since the previous step.

        `seconds` includes the wait for data (share: `data_wait`), but no other lost
        time.
        """
        now, lost = time.perf_counter(), self.clock.lost()
        waited = self.clock.lost("data")
        wait = waited - self._waited
        seconds = max(now - self._last - (lost - self._lost) + wait, 1e-9)
        self._last, self._lost, self._waited = now, lost, waited
        return {
            "seconds": seconds,
            "data_wait": min(1.0, wait / seconds),
            "tokens_per_second": tokens / seconds,
            "goodput": self.clock.goodput,
        }

    def _remaining(self, step: int) -> float | None:
        # The first step is left out: it waits for earlier work of the devices.
        recent = self._pace[1:][-_PACE_STEPS:]
        return float(np.mean(recent)) * (self._steps - step) if recent else None

    def _write_histograms(
        self, step: int, histograms: Mapping[str, np.ndarray]
    ) -> None:
        if not histograms:
            return
        rounded = {n: np.round(shares, 6).tolist() for n, shares in histograms.items()}
        self._histograms.append({"step": step} | rounded)
        for name, shares in histograms.items():
            if np.isfinite(shares).all():
                for sink in self._sinks:
                    sink.histogram(step, name, shares, EDGES[name])


def _seconds(row: Mapping[str, Any]) -> float:
    """Seconds of a stored step; 0 if the row is damaged."""
    seconds = row.get("seconds")
    sound = isinstance(seconds, int | float) and 0 <= seconds < math.inf
    return float(seconds) if sound else 0.0  # type: ignore[arg-type]


def _split(metrics: Mapping[str, Any]) -> tuple[dict[str, float], dict[str, Any]]:
    """Split metrics into scalars and histograms [BINS] f64, by metric name."""
    scalars: dict[str, float] = {}
    histograms: dict[str, np.ndarray] = {}
    for name, value in metrics.items():
        if name.startswith(PREFIX):
            histograms[name.removeprefix(PREFIX)] = np.asarray(value, np.float64)
        else:
            scalars[name] = float(value)
    return scalars, histograms
