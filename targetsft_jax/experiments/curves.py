"""The curves of one or several runs in one picture."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.experiments.runs import Run
from targetsft_jax.loss.histogram import EDGES
from targetsft_jax.telemetry.goodput import LOSSES

# Metric, title. Those that no run has, or that never change, are left out.
_CURVES = (
    ("loss", "loss (the method's own value)"),
    ("nll", "NLL of the label, nats"),
    ("gamma", "γ, trust in the label"),
    ("strength", "A = a + b, strength of the step"),
    ("negative_mass", "negative mass of Q"),
    ("label_prob", "p_y"),
    ("entropy", "entropy of the student, nats"),
    ("kl_teacher", "KL(teacher ‖ student), nats"),
    ("kl_reference", "KL(reference ‖ student), nats"),
    ("grad_norm", "gradient norm before clipping"),
    ("tokens_per_second", "tokens per second"),
)
_LOGARITHMIC = ("grad_norm",)
_SPREAD = {"gamma": "γ", "label_prob": "p_y", "entropy": "entropy, nats"}
_COLUMNS = 3


def draw(runs: list[Run], path: Path) -> None:
    """Draw runs to a PNG.

    A curve for each metric that any of them has, raw values faint behind a running
    mean, and what was measured on held-out data dashed. Then how γ, p_y and entropy
    were spread over tokens: over the steps for one run, at the end for several. Then
    what the wall time went into.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError(
            "curves are drawn by matplotlib, which is not installed; "
            'pip install "targetsft-jax[report]"'
        ) from None
    curves = [c for c in _CURVES if _says_something(c[0], runs)]
    spread = [n for n in _SPREAD if any(_spread(run, n) for run in runs)]
    timed = any(run.seconds for run in runs)
    panels = len(curves) + len(spread) + timed
    lines = -(-panels // _COLUMNS)
    figure = Figure(figsize=(5.2 * _COLUMNS, 3.1 * lines + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = iter(figure.subplots(lines, _COLUMNS, squeeze=False).ravel())
    for metric, title in curves:
        _curve(next(axes), runs, metric, title)
    for name in spread:
        axis = next(axes)
        axis.set_title(f"{_SPREAD[name]}, share of target tokens", fontsize=10)
        if len(runs) == 1:
            _spread_over_steps(figure, axis, runs[0], name)
        else:
            _spread_at_the_end(axis, runs, name)
    if timed:
        _wall_time(next(axes), runs)
    for axis in axes:
        axis.axis("off")
    handles = [_handle(number, run) for number, run in enumerate(runs)]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(6, len(runs)),
        frameon=False,
    )
    figure.savefig(path, dpi=110)


def running_mean(values: list[float]) -> np.ndarray:
    """Means over a centred window of about a fiftieth of all values; [len(values)]."""
    half = len(values) // 100
    total = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    places = np.arange(len(values))
    # At both ends the window shrinks on both sides, so that a trend is not bent.
    reach = np.minimum(half, np.minimum(places, len(values) - 1 - places))
    return (total[places + reach + 1] - total[places - reach]) / (2 * reach + 1)


def _says_something(metric: str, runs: list[Run]) -> bool:
    """Whether it was measured, and is no constant of all the methods."""
    values = [value for run in runs for value in run.series(metric)[1]]
    return bool(values) and max(values) - min(values) > 1e-5 * max(map(abs, values))


def _curve(axis: Any, runs: list[Run], metric: str, title: str) -> None:
    axis.set_title(title, fontsize=10)
    for number, run in enumerate(runs):
        colour = f"C{number % 10}"
        steps, values = run.series(metric)
        axis.plot(steps, values, color=colour, alpha=0.2, linewidth=0.8)
        if steps:
            axis.plot(steps, running_mean(values), color=colour, linewidth=1.4)
        held_out = run.series(f"validation_{metric}")
        axis.plot(*held_out, color=colour, linestyle="--", marker="o", markersize=3)
        if metric == "loss":
            for key, mark in (("skipped", "x"), ("spike", "v")):
                at = [row["step"] for row in run.rows if row.get(key)]
                low = min(values, default=0.0)
                axis.plot(at, [low] * len(at), mark, color=colour, markersize=5)
    if metric in _LOGARITHMIC:
        axis.set_yscale("log")
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _spread(run: Run, name: str) -> list[tuple[int, list[float]]]:
    return [
        (row["step"], row[name])
        for row in run.histograms
        if row.get(name) and None not in row[name]
    ]


def _spread_over_steps(figure: Any, axis: Any, run: Run, name: str) -> None:
    found = _spread(run, name)
    steps = np.array([step for step, _ in found], np.float64)
    # Each measurement fills the time until the next one.
    edges = np.append(steps, steps[-1] + max(1.0, steps[-1] - steps[-2 % len(steps)]))
    # A share of 1 % must be told from nothing beside one of 60 %.
    shares = np.sqrt(np.array([shares for _, shares in found])).T
    mesh = axis.pcolormesh(edges, EDGES[name], shares, cmap="viridis", vmin=0, vmax=1)
    bar = figure.colorbar(mesh, ax=axis, ticks=[0, 0.1**0.5, 0.5, 0.5**0.5, 1])
    bar.ax.set_yticklabels(["0", "10 %", "25 %", "50 %", "100 %"], fontsize=7)
    axis.set_xlabel("step", fontsize=8)
    axis.tick_params(labelsize=8)


def _spread_at_the_end(axis: Any, runs: list[Run], name: str) -> None:
    for number, run in enumerate(runs):
        found = _spread(run, name)
        if found:
            axis.stairs(found[-1][1], EDGES[name], color=f"C{number % 10}")
    axis.set_ylim(bottom=0)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25)


def _wall_time(axis: Any, runs: list[Run]) -> None:
    axis.set_title("wall time, shares", fontsize=10)
    for number, run in enumerate(runs):
        total = sum(run.seconds.values()) or math.nan
        left = 0.0
        for place, cause in enumerate(("steps", *LOSSES)):
            share = run.seconds.get(cause, 0.0) / total
            colour = "0.8" if cause == "steps" else f"C{place + 2}"
            label = cause if number == 0 else None
            axis.barh(number, share, left=left, color=colour, label=label)
            left += share
    axis.set_yticks(range(len(runs)), [run.name for run in runs], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.tick_params(labelsize=8)
    axis.legend(fontsize=7, ncols=4, loc="lower center", bbox_to_anchor=(0.5, -0.42))


def _handle(number: int, run: Run) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=f"C{number % 10}", label=run.name)
