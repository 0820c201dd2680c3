"""Progress on standard output: lines of metrics, and a bar on a terminal."""

import sys
from collections.abc import Mapping
from typing import Any

from targetsft_jax.telemetry.metrics import METRICS, Metric, legend, line_metrics

LEGEND = legend()
"""Printed once at the start of a run."""

_BAR = ("tokens_per_second", "goodput")


class Progress:
    """Lines on standard output; on a terminal, also a bar with the remaining time.

    Args:
        steps: last optimizer step of the run.
        start: last step of earlier sessions.
        terminal: draw the bar; None: if standard output is a terminal.
    """

    def __init__(self, *, steps: int, start: int, terminal: bool | None = None):
        self._steps = steps
        self._bar: Any = None
        if sys.stdout.isatty() if terminal is None else terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._task = self._bar.add_task("", total=steps, completed=start, text="")
            self._bar.start()

    def message(self, text: str) -> None:
        """Print a line of text, above the bar if there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def advance(self, row: Mapping[str, float]) -> None:
        """Advance the bar to the step of `row`."""
        if self._bar is not None:
            text = "  ".join(_entries([METRICS[name] for name in _BAR], row))
            self._bar.update(self._task, completed=row["step"], text=text)

    def line(self, row: Mapping[str, float], *, remaining: float | None) -> None:
        """Print the metrics of a step.

        Args:
            row: step and metrics; missing metrics are omitted.
            remaining: seconds to the last step; None: unknown.
        """
        step = f"step {int(row['step']):>{len(str(self._steps))}}/{self._steps}"
        eta = "–" if remaining is None else clock_time(remaining)
        self.message("  ".join([step, *_entries(line_metrics(), row), f"ETA {eta}"]))

    def close(self) -> None:
        """Stop the bar and restore the terminal."""
        if self._bar is not None:
            self._bar.stop()


def clock_time(seconds: float) -> str:
    """Format seconds as `1:05`, or from one hour on as `26:03:20`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _entries(metrics: list[Metric], row: Mapping[str, float]) -> list[str]:
    return [
        f"{metric.label} {metric.line(row[metric.name])}"
        for metric in metrics
        if metric.line and metric.name in row
    ]
