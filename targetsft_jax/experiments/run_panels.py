"""Panels of runs beside their curves: token distributions, scores, wall time."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import REFERENCES
from targetsft_jax.experiments.runs import Run
from targetsft_jax.loss.histogram import EDGES
from targetsft_jax.palette import CHALK, GREY, PARTS
from targetsft_jax.telemetry.goodput import CAUSES
from targetsft_jax.telemetry.metrics import Metric

_BAR = 0.34
"""Height of a bar or score in inches."""

_SHARES = (0, 0.1, 0.25, 0.5, 1)
_NAME_CHARACTERS = 22

Panel = Callable[[Any], None]


def histogram_over_steps(axis: Any, runs: list[Run], metric: Metric) -> None:
    """Draw the distribution of a metric over tokens, one column per recorded step."""
    style.label(axis, f"{metric.histogram}, share of target tokens", "step")
    steps, histograms = runs[0].distributions(metric.name)
    # A histogram covers the steps up to the next one.
    last = steps[-1] - steps[-2] if len(steps) > 1 else 1
    times = np.array([*steps, steps[-1] + last], np.float64)
    # Square roots keep a share of 1 % visible next to one of 60 %.
    roots = np.sqrt(np.array(histograms)).T
    colours = style.heat_map()
    axis.pcolormesh(times, EDGES[metric.name], roots, cmap=colours, vmin=0, vmax=1)


def share_scale(figure: Any, axes: Sequence[Any]) -> None:
    """Draw the one colour bar of `histogram_over_steps` panels beside the last."""
    mesh = axes[0].collections[0]
    bar = figure.colorbar(mesh, ax=list(axes), ticks=np.sqrt(_SHARES), pad=0.01)
    bar.ax.set_yticklabels([f"{share:.0%}" for share in _SHARES])
    bar.outline.set_visible(False)


def last_histograms(axis: Any, runs: list[Run], metric: Metric) -> None:
    """Draw the distributions of a metric at the last recorded step, one per run."""
    style.label(axis, f"{metric.histogram}, share of target tokens, last step")
    for number, run in enumerate(runs):
        histograms = run.distributions(metric.name)[1]
        if histograms:
            axis.stairs(
                histograms[-1],
                EDGES[metric.name],
                color=style.run_colour(number),
                linewidth=1.4,
            )
    axis.set_ylim(bottom=0)
    axis.grid()


def bottom(runs: list[Run]) -> list[Panel]:
    """Panels below all others: scores and wall time, where there are any."""
    panels: list[Panel] = []
    if any(run.scores for run in runs):
        panels.append(partial(_scores, runs=runs))
    if any(run.seconds for run in runs):
        panels.append(partial(_wall_time, runs=runs))
    return panels


def bottom_height(runs: list[Run]) -> float:
    """Height in inches of the panels of `bottom`."""
    return 1.1 + _BAR * max(len(runs), len(_score_rows(runs)))


def draw_bottom(figure: Any, panels: Sequence[Panel]) -> None:
    """Draw the panels of `bottom` side by side, the last one twice as wide."""
    widths = [1, 2] if len(panels) == 2 else [1]
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)
    for axis, panel in zip(axes.ravel(), panels):
        panel(axis)


def _score_rows(runs: list[Run]) -> list[tuple[str, AverageAtK, str]]:
    """Name, score and colour of the models: frozen ones once, then one per run."""
    rows = []
    for name in REFERENCES:
        scores = [run.scores[name] for run in runs if name in run.scores]
        if scores:
            rows.append((name, scores[0], GREY))
    for number, run in enumerate(runs):
        for name, score in run.scores.items():
            if name not in REFERENCES:
                label = name if len(runs) == 1 else run.name
                rows.append((label, score, style.run_colour(number)))
    return rows


def _scores(axis: Any, runs: list[Run]) -> None:
    from matplotlib.ticker import MaxNLocator

    rows = _score_rows(runs)
    problems, samples = rows[0][1].problems, rows[0][1].k
    title = f"Average@{samples}, %, {problems} problems, 95 % interval"
    style.label(axis, title)
    for number, (_, score, colour) in enumerate(rows):
        mean = 100 * score.average_at_k
        # nan for a single problem: no interval.
        error = 196 * score.standard_error
        axis.errorbar(
            mean,
            number,
            xerr=None if math.isnan(error) else error,
            color=colour,
            marker="o",
            markersize=5,
            linewidth=1.6,
        )
        axis.annotate(
            f"{mean:.1f}",
            (mean, number),
            xytext=(0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=style.SMALL,
        )
    names = [_shortened(name) for name, _, _ in rows]
    axis.set_yticks(range(len(rows)), names)
    axis.set_ylim(len(rows) - 0.5, -0.7)
    axis.set_xlim(left=min(0, axis.get_xlim()[0]))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.grid(axis="x")


def _shortened(name: str) -> str:
    """A name that leaves space for the panel; its end differs between runs."""
    return name if len(name) <= _NAME_CHARACTERS else f"…{name[1 - _NAME_CHARACTERS :]}"


def _wall_time(axis: Any, runs: list[Run]) -> None:
    style.label(axis, "wall time by cause")
    colours = {"steps": CHALK, **dict(zip(CAUSES, PARTS))}
    causes = [c for c in colours if any(run.seconds.get(c) for run in runs)]
    for number, run in enumerate(runs):
        total = sum(run.seconds.values()) or math.nan
        left = 0.0
        for cause in causes:
            share = run.seconds.get(cause, 0.0) / total
            label = cause if number == 0 else None
            bar = {"left": left, "color": colours[cause], "label": label}
            axis.barh(number, share, height=0.62, **bar)
            left += share
        if len(runs) > 1:
            # Inside the axes: outside, long names would shrink the panel.
            text = axis.text(0.008, number, run.name, va="center")
            text.set(clip_on=True)
    axis.set_yticks([])
    axis.set_ylim(len(runs) - 0.5, -0.5)
    axis.set_xlim(0, 1)
    axis.spines["left"].set_visible(False)
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.legend(ncols=len(causes), loc="upper left", bbox_to_anchor=(0, -0.2))
