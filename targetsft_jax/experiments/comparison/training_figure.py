"""Figure of training: γ, strength and negative mass over the steps of one setting."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import (
    FAMILIES,
    family,
    label_order,
    short,
)
from targetsft_jax.experiments.comparison.results import CellResult

PLOTTED = {
    "gamma": "γ, weight of the label",
    "strength": "strength of the update",
    "negative_mass": "negative mass",
}
"""Metric -> title of its panels."""

_LINES = 10
"""Most lines of a panel; a larger family has several columns."""


def training_data(rows: Sequence[CellResult], setting: str) -> list[dict[str, Any]]:
    """Rows of the figure: one per label, metric and step of a setting.

    The steps are those that every seed of the label has.
    """
    cells: dict[str, list[CellResult]] = {}
    for row in rows:
        if row.setting == setting and row.history.get("step"):
            cells.setdefault(row.label, []).append(row)
    return [
        {
            "setting": setting,
            "label": label,
            "method": cells[label][0].method,
            "metric": metric,
            "step": step,
            "mean": float(np.mean(values)),
            "low": min(values),
            "high": max(values),
        }
        for label in label_order({k: v[0].method for k, v in cells.items()})
        for metric in PLOTTED
        for step, values in _by_step(cells[label], metric).items()
    ]


def _by_step(cells: Sequence[CellResult], metric: str) -> dict[float, list[float]]:
    """Finite values of all seeds by step."""
    series = [
        {
            step: value
            for step, value in zip(cell.history["step"], cell.history.get(metric, []))
            if np.isfinite(value)
        }
        for cell in cells
    ]
    common = set(series[0]).intersection(*series[1:])
    return {step: [values[step] for values in series] for step in sorted(common)}


def draw_training(data: Sequence[dict[str, Any]]) -> Any:
    """Draw metrics as rows and families as columns; returns the figure.

    Args:
        data: rows of `training_data`.
    """
    labels: dict[str, list[str]] = {}
    for row in data:
        members = labels.setdefault(family(row["method"]), [])
        if row["label"] not in members:
            members.append(row["label"])
    columns = [
        (name, labels[name][first : first + _LINES])
        for name in FAMILIES
        for first in range(0, len(labels.get(name, ())), _LINES)
    ]
    entries = max(len(members) for _, members in columns)
    figure = style.canvas(style.WIDTH, 6.2 + 0.16 * entries)
    heights = [1.0] * len(PLOTTED) + [0.08 + 0.085 * entries]
    axes = figure.subplots(
        len(PLOTTED) + 1,
        len(columns),
        squeeze=False,
        sharey="row",
        height_ratios=heights,
    )
    for column, (name, members) in enumerate(columns):
        _family(axes[:, column], data, name, members)
    for line, title in enumerate(PLOTTED.values()):
        axes[line, 0].set_ylabel(title)
    setting = data[0]["setting"]
    figure.suptitle(
        f"{setting + ': ' if setting else ''}training, mean over seeds; band: lowest "
        "to highest seed",
        fontsize=style.TITLE + 1,
    )
    return figure


def _family(
    axes: Sequence[Any],
    data: Sequence[Mapping[str, Any]],
    name: str,
    members: Sequence[str],
) -> None:
    """Draw the panels of a family from top to bottom, then its legend."""
    axes[0].set_title(style.FAMILY_TITLES[name])
    handles: list[Any] = []
    for number, label in enumerate(members):
        line = style.member(name, number, len(members))
        for axis, metric in zip(axes, PLOTTED):
            rows = [r for r in data if r["label"] == label and r["metric"] == metric]
            if not rows:
                continue
            steps = [row["step"] for row in rows]
            low, high = ([row[k] for row in rows] for k in ("low", "high"))
            axis.fill_between(steps, low, high, color=line["color"], alpha=0.08, lw=0)
            drawn = axis.plot(
                steps,
                [row["mean"] for row in rows],
                **line,
                linewidth=1.4,
                markersize=4,
                # Shifted from line to line, so that markers do not coincide.
                markevery=_marks(len(steps), number),
                label=short(label),
            )
            if (
                axis is axes[0]
                or not handles
                or handles[-1].get_label() != short(label)
            ):
                handles += drawn
    for axis in axes[:-1]:
        axis.grid()
    axes[-2].set_xlabel("step")
    axes[-1].axis("off")
    axes[-1].legend(
        handles=handles, loc="upper left", fontsize=style.SMALL, handlelength=3.2
    )


def _marks(steps: int, number: int) -> tuple[int, int]:
    """First marked step and distance of the marks of a line."""
    distance = max(1, steps // 5)
    return (number * max(1, distance // 4)) % distance, distance
