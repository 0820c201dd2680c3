"""What a run writes down: metrics.jsonl, histograms.jsonl, and its sinks."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.loss.histogram import EDGES
from targetsft_jax.storage.atomic import write_text
from targetsft_jax.telemetry.goodput import Clock
from targetsft_jax.telemetry.progress import Progress
from targetsft_jax.telemetry.sinks import Sink

METRICS_FILE, HISTOGRAMS_FILE = "metrics.jsonl", "histograms.jsonl"

_HISTOGRAM = "histogram_"


class RunLog:
    """Writes one object a step and prints a line now and then.

    Args:
        run_dir: where metrics.jsonl and histograms.jsonl go.
        steps: of the whole run.
        start: steps done before; later lines of an interrupted run are dropped.
        every: steps between printed lines, and between histograms.
        sinks: where the numbers go beside the files.
        began: `time.perf_counter()` when the session began; now, unless given.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        steps: int,
        start: int,
        every: int,
        sinks: Sequence[Sink] = (),
        began: float | None = None,
    ):
        self._steps, self._every = steps, every
        dropped = keep_until(run_dir / METRICS_FILE, start)
        keep_until(run_dir / HISTOGRAMS_FILE, start)
        redone = sum(row.get("seconds") or 0.0 for row in dropped)
        self.clock = Clock(run_dir, resumed=start > 0, redone=redone, began=began)
        self._file = (run_dir / METRICS_FILE).open("a", encoding="utf-8")
        self._histograms = (run_dir / HISTOGRAMS_FILE).open("a", encoding="utf-8")
        self._sinks = sinks
        self._progress = Progress(steps=steps, start=start)
        self._last, self._lost = time.perf_counter(), self.clock.lost()
        self._waited = self.clock.lost("data")
        self._pace: list[float] = []
        if start:
            self.say(f"going on from the checkpoint of step {start}")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record step `step` (1-based) with its metrics, which are finished.

        Its seconds are those since the step before, without what was lost meanwhile to
        anything but waiting for data; `data_wait` is the share of that.
        """
        histograms = {
            name.removeprefix(_HISTOGRAM): np.asarray(shares, np.float64)
            for name, shares in metrics.items()
            if name.startswith(_HISTOGRAM)
        }
        row = {"step": step} | {
            name: float(value)
            for name, value in metrics.items()
            if not name.startswith(_HISTOGRAM)
        }
        now, lost, waited = (
            time.perf_counter(),
            self.clock.lost(),
            self.clock.lost("data"),
        )
        wait = waited - self._waited
        seconds = max(now - self._last - (lost - self._lost) + wait, 1e-9)
        self._last, self._lost, self._waited = now, lost, waited
        row["seconds"] = seconds
        row["data_wait"] = min(1.0, wait / seconds)
        row["tokens_per_second"] = row["tokens"] / seconds
        goodput = row["goodput"] = self.clock.goodput
        self._pace.append(seconds)
        # JSON has no NaN: a reader must not choke on the step that shows one.
        safe = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps(safe) + "\n")
        self._file.flush()
        values = {name: value for name, value in row.items() if name != "step"}
        for sink in self._sinks:
            sink.scalars(step, values)
        due = step % self._every == 0 or step == self._steps or len(self._pace) == 1
        if due or "validation_loss" in row:
            self._write_histograms(step, histograms)
            # The first step of a session also waits for what the devices do first.
            pace = np.mean(self._pace[1:][-200:]) if self._pace[1:] else None
            left = None if pace is None else float(pace) * (self._steps - step)
            self._progress.line(row, goodput=goodput, left=left)
        self._progress.advance(row, goodput=goodput)
        self.clock.write(now=step == self._steps)

    def say(self, text: str) -> None:
        """A line on standard output, above the bar where there is one."""
        self._progress.say(text)

    def close(self) -> None:
        """Flush everything, and say where the time went."""
        self._file.close()
        self._histograms.close()
        self.clock.write(now=True)
        self._progress.close()
        if self._pace:
            self.say(self.clock.line())
        for sink in self._sinks:
            sink.close()

    def _write_histograms(self, step: int, found: Mapping[str, np.ndarray]) -> None:
        if not found:
            return
        shares = {name: [round(x, 6) for x in v.tolist()] for name, v in found.items()}
        safe = {
            k: [x if math.isfinite(x) else None for x in v] for k, v in shares.items()
        }
        self._histograms.write(json.dumps({"step": step} | safe) + "\n")
        self._histograms.flush()
        for name, values in found.items():
            if np.isfinite(values).all():
                for sink in self._sinks:
                    sink.histogram(step, name, values, EDGES[name])


class NoLog:
    """That of a process that writes nothing down: only its clock runs."""

    def __init__(self, run_dir: Path, *, start: int, began: float | None = None):
        self.clock = Clock(run_dir, resumed=start > 0, began=began)

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The objects of metrics.jsonl or histograms.jsonl; torn lines are passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, KeyError, TypeError):
            continue
        rows.append(row)
    return rows


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Drop lines of steps that a resumed run will take again, and a torn last one.

    Returns:
        The objects dropped.
    """
    if not path.exists():
        return []
    rows = read_rows(path)
    kept = [json.dumps(row) + "\n" for row in rows if row["step"] <= step]
    # Whole at any moment: a kill must not cost the lines that are kept.
    write_text(path, "".join(kept))
    return [row for row in rows if row["step"] > step]
