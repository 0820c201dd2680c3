"""Plot runs in one figure: metrics, token distributions, wall time."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.config.schema import VALIDATION_PREFIX
from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.runs import Run
from targetsft_jax.loss.histogram import EDGES
from targetsft_jax.telemetry.goodput import CAUSES
from targetsft_jax.telemetry.metrics import METRICS, Metric

_COLUMNS = 3
_WIDTH, _HEIGHT = 5.2, 3.1
"""Size of a panel in inches."""

_ANOMALIES = {"skipped": ("x", "×: skipped step"), "spike": ("v", "▼: loss spike")}
"""Metric -> marker in the loss panel, and its legend."""

Panel = Callable[[Any], None]
"""Function that draws one panel into matplotlib axes."""


def draw(runs: list[Run], path: Path) -> None:
    """Draw runs to a PNG.

    One panel per metric that is not constant: raw values faint behind a running mean,
    held-out values dashed. Then the histograms over tokens, over the steps for one run
    and at the last step for several. Then the wall time by cause.

    Args:
        runs: runs of the figure, one color each.
        path: PNG file to write.

    Raises:
        ValueError: matplotlib is not installed.
    """
    panels = _panels(runs)
    rows = -(-len(panels) // _COLUMNS)
    figure = style.canvas(_WIDTH * _COLUMNS, _HEIGHT * rows + 0.8)
    from matplotlib.lines import Line2D

    axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).ravel())
    for axis, panel in zip(axes, panels):
        panel(axis)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.suptitle(_figure_title(runs), fontsize=style.TITLE + 2)
    if len(runs) > 1:
        figure.legend(
            [
                Line2D([], [], color=style.run_colour(number))
                for number in range(len(runs))
            ],
            [run.name for run in runs],
            loc="outside lower center",
            ncols=min(6, len(runs)),
            frameon=False,
            fontsize=style.LABEL,
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


def _panels(runs: list[Run]) -> list[Panel]:
    panels: list[Panel] = [
        partial(_curve, runs=runs, metric=metric)
        for metric in METRICS.values()
        if metric.plot and _varies(metric.name, runs)
    ]
    for metric in METRICS.values():
        if metric.histogram and any(run.distributions(metric.name)[0] for run in runs):
            histogram = _histogram_over_steps if len(runs) == 1 else _last_histograms
            panels.append(partial(histogram, runs=runs, metric=metric))
    if any(run.seconds for run in runs):
        panels.append(partial(_wall_time, runs=runs))
    return panels


def _varies(metric: str, runs: list[Run]) -> bool:
    """Return whether the metric was measured and is not constant."""
    values = [value for run in runs for value in run.series(metric)[1]]
    return bool(values) and max(values) - min(values) > 1e-5 * max(map(abs, values))


def _figure_title(runs: list[Run]) -> str:
    name = runs[0].name if len(runs) == 1 else f"{len(runs)} runs"
    parts = [f"{name}: running means"]
    if any(run.series(VALIDATION_PREFIX + "loss")[0] for run in runs):
        parts.append("dashed: held-out rows")
    for metric, (_, text) in _ANOMALIES.items():
        if any(row.get(metric) for run in runs for row in run.rows):
            parts.append(text)
    return "; ".join(parts)


def _style(axis: Any, title: str, x: str = "") -> None:
    axis.set_title(title, fontsize=style.TITLE)
    axis.set_xlabel(x, fontsize=style.LABEL)
    axis.tick_params(labelsize=style.LABEL)


def _curve(axis: Any, runs: list[Run], metric: Metric) -> None:
    _style(axis, metric.plot or metric.label, "step")
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
    axis.grid(alpha=0.25)


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


def _histogram_over_steps(axis: Any, runs: list[Run], metric: Metric) -> None:
    _style(axis, f"{metric.histogram}, share of target tokens", "step")
    steps, histograms = runs[0].distributions(metric.name)
    # A histogram covers the steps up to the next one.
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    times = np.array([*steps, steps[-1] + last], np.float64)
    # Square roots keep a share of 1 % visible next to one of 60 %.
    roots = np.sqrt(np.array(histograms)).T
    mesh = axis.pcolormesh(
        times, EDGES[metric.name], roots, cmap="viridis", vmin=0, vmax=1
    )
    shares = (0, 0.1, 0.25, 0.5, 1)
    bar = axis.figure.colorbar(mesh, ax=axis, ticks=np.sqrt(shares), pad=0.02)
    bar.ax.set_yticklabels(
        [f"{share:.0%}" for share in shares], fontsize=style.LABEL - 1
    )


def _last_histograms(axis: Any, runs: list[Run], metric: Metric) -> None:
    _style(axis, "share of target tokens, last step", metric.histogram or "")
    for number, run in enumerate(runs):
        histograms = run.distributions(metric.name)[1]
        if histograms:
            axis.stairs(
                histograms[-1], EDGES[metric.name], color=style.run_colour(number)
            )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.25)


def _wall_time(axis: Any, runs: list[Run]) -> None:
    _style(axis, "wall time by cause")
    colours = {"steps": "0.8"} | {cause: f"C{n}" for n, cause in enumerate(CAUSES, 3)}
    causes = [c for c in colours if any(run.seconds.get(c) for run in runs)]
    for number, run in enumerate(runs):
        total = sum(run.seconds.values()) or math.nan
        left = 0.0
        for cause in causes:
            share = run.seconds.get(cause, 0.0) / total
            label = cause if number == 0 else None
            axis.barh(number, share, left=left, color=colours[cause], label=label)
            left += share
        if len(runs) > 1:
            # Inside the axes: outside, long names would shrink all panels.
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1.5}
            text = axis.text(0.01, number, run.name, va="center", bbox=box)
            text.set(fontsize=style.LABEL, clip_on=True)
    axis.set_yticks([])
    # Space for the legend below the last bar.
    axis.set_ylim(len(runs) - 0.5 + 0.45 * len(runs), -0.5)
    axis.set_xlim(0, 1)
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.legend(fontsize=style.LABEL - 1, ncols=4, loc="lower center", frameon=False)
