"""Plot runs in one figure: metrics, token distributions, scores, wall time."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.config.schema import VALIDATION_PREFIX
from targetsft_jax.experiments import run_panels
from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.runs import Run
from targetsft_jax.telemetry.metrics import METRICS, Metric

_COLUMNS = 3
_WIDTH, _HEIGHT = 4.6, 2.7
"""Size of a panel in inches."""

_ANOMALIES = {"skipped": ("x", "×: skipped step"), "spike": ("v", "▼: loss spike")}
"""Metric -> marker in the loss panel, and its legend."""

Panel = Callable[[Any], Any]
"""Function that draws one panel into matplotlib axes."""


def draw(runs: list[Run], path: Path) -> None:
    """Draw runs to a PNG.

    One panel per metric that is not constant: raw values faint behind a running mean,
    held-out values dashed. Then the histograms over tokens, over the steps for one run
    and at the last step for several. Then the scores of the evaluated models, and the
    wall time by cause.

    Args:
        runs: runs of the figure, one color each.
        path: PNG file to write.

    Raises:
        ValueError: matplotlib is not installed.
    """
    with style.parameters():
        curves, histograms = _curves(runs), _histograms(runs)
        bottom = run_panels.bottom(runs)
        heights = [_HEIGHT * _rows(curves) + 0.3 * (len(runs) > 1)]
        heights += [_HEIGHT * _rows(histograms)] if histograms else []
        heights += [run_panels.bottom_height(runs)] if bottom else []
        figure = style.canvas(_WIDTH * _COLUMNS, sum(heights) + 0.8)
        # Groups have separate layouts: legends and long names of one do not move the
        # panels of another.
        groups = figure.subfigures(len(heights), 1, height_ratios=heights)
        groups = list(np.atleast_1d(groups))
        _grid(groups[0], curves)
        if len(runs) > 1:
            _legend(groups[0], runs)
        if histograms:
            axes = _grid(groups[1], histograms)
            if len(runs) == 1:
                run_panels.share_scale(groups[1], axes)
        if bottom:
            run_panels.draw_bottom(groups[-1], bottom)
        figure.suptitle(
            _figure_title(runs), x=0.01, ha="left", fontsize=style.TITLE + 2
        )
        figure.savefig(path, dpi=110, format="png")


def running_mean(values: list[float]) -> np.ndarray:
    """Average over a centred window of 1/50 of the values; returns [len(values)]."""
    half = len(values) // 100
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    indices = np.arange(len(values))
    # At both ends the window shrinks symmetrically, which preserves a linear trend.
    reach = np.minimum(half, np.minimum(indices, len(values) - 1 - indices))
    return (total[indices + reach + 1] - total[indices - reach]) / (2 * reach + 1)


def _curves(runs: list[Run]) -> list[Panel]:
    return [
        partial(_curve, runs=runs, metric=metric)
        for metric in METRICS.values()
        if metric.plot and _varies(metric.name, runs)
    ]


def _histograms(runs: list[Run]) -> list[Panel]:
    one = len(runs) == 1
    panel = run_panels.histogram_over_steps if one else run_panels.last_histograms
    return [
        partial(panel, runs=runs, metric=metric)
        for metric in METRICS.values()
        if metric.histogram and any(run.distributions(metric.name)[0] for run in runs)
    ]


def _rows(panels: Sequence[Panel]) -> int:
    return max(1, -(-len(panels) // _COLUMNS))


def _grid(group: Any, panels: Sequence[Panel]) -> list[Any]:
    """Draw panels in columns; returns the axes that have one."""
    axes = list(group.subplots(_rows(panels), _COLUMNS, squeeze=False).ravel())
    for axis, panel in zip(axes, panels):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    return axes[: len(panels)]


def _legend(group: Any, runs: list[Run]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=style.run_colour(n)) for n in range(len(runs))]
    group.legend(
        lines, [run.name for run in runs], loc="outside upper left", ncols=len(runs)
    )


def _varies(metric: str, runs: list[Run]) -> bool:
    """Return whether the metric was measured and is not constant."""
    values = [value for run in runs for value in run.series(metric)[1]]
    return bool(values) and max(values) - min(values) > 1e-5 * max(map(abs, values))


def _figure_title(runs: list[Run]) -> str:
    name = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    parts = ["lines: running means"]
    if any(run.series(VALIDATION_PREFIX + "loss")[0] for run in runs):
        parts.append("dashed: held-out rows")
    for metric, (_, text) in _ANOMALIES.items():
        if any(row.get(metric) for run in runs for row in run.rows):
            parts.append(text)
    return f"{name}  ({'; '.join(parts)})"


def _curve(axis: Any, runs: list[Run], metric: Metric) -> None:
    style.label(axis, metric.plot or metric.label, "step")
    for number, run in enumerate(runs):
        colour = style.run_colour(number)
        steps, values = run.series(metric.name)
        axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        if steps:
            axis.plot(steps, running_mean(values), color=colour, linewidth=1.4)
        held_out = run.series(VALIDATION_PREFIX + metric.name)
        axis.plot(*held_out, color=colour, linestyle="--", marker="o", markersize=3)
        if metric.name == "loss":
            _mark_anomalies(axis, run, min(values, default=0.0), colour)
    if metric.logarithmic:
        _logarithmic(axis, runs, metric.name)
    axis.grid()


def _mark_anomalies(axis: Any, run: Run, height: float, colour: str) -> None:
    for metric, (marker, _) in _ANOMALIES.items():
        steps = [row["step"] for row in run.rows if row.get(metric)]
        axis.plot(steps, [height] * len(steps), marker, color=colour, markersize=5)


def _logarithmic(axis: Any, runs: list[Run], metric: str) -> None:
    """Set a logarithmic scale, with plain tick labels below two decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = [value for run in runs for value in run.series(metric)[1] if value > 0]
    axis.set_yscale("log")
    if values and max(values) < 100 * min(values):
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
