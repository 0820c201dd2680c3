"""Figure of scores: every seed a dot, the mean, and its interval over problems."""

from collections.abc import Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import REFERENCES, family
from targetsft_jax.experiments.comparison.panels import rows_of_labels
from targetsft_jax.experiments.comparison.statistics import Statistics


def scores_data(statistics: Statistics) -> list[dict[str, Any]]:
    """Rows of the figure: one per setting, label and seed; scores in per cent."""
    return [
        {
            "setting": setting.name,
            "label": label,
            "method": score.method,
            "seed": seed,
            "average": 100 * value,
            "mean": 100 * score.over_problems.value,
            "low": 100 * score.over_problems.low,
            "high": 100 * score.over_problems.high,
            "is_baseline": label == statistics.baseline,
        }
        for setting in statistics.settings
        for label, score in setting.scores.items()
        for seed, value in score.seeds.items()
    ]


def draw_scores(data: Sequence[dict[str, Any]]) -> Any:
    """Draw one panel per setting; returns the figure.

    Args:
        data: rows of `scores_data`.
    """
    title = (
        "Average@k, %: each seed a dot, the mean a line, 95 % interval over problems"
    )
    figure, axes, order = rows_of_labels(data, title)
    for setting, axis in axes.items():
        _panel(axis, [row for row in data if row["setting"] == setting], list(order))
    families = {family(method) for method in order.values()}
    style.family_legend(figure, families, _handles(data))
    return figure


def _panel(axis: Any, data: Sequence[dict[str, Any]], order: Sequence[str]) -> None:
    for label in order:
        rows = [row for row in data if row["label"] == label]
        if not rows:
            continue
        first, y = rows[0], order.index(label)
        kind = family(first["method"])
        colour, mean = style.colour(kind), first["mean"]
        if first["is_baseline"]:
            axis.axvspan(first["low"], first["high"], color=colour, alpha=0.13, lw=0)
            axis.axvline(mean, color=colour, linewidth=0.8)
        if first["method"] in REFERENCES:
            dash = _DASHES[first["method"]]
            axis.axvline(mean, color=colour, linewidth=1, linestyle=dash)
        axis.hlines(y, first["low"], first["high"], color=colour, linewidth=1.3)
        axis.vlines(mean, y - 0.33, y + 0.33, color=colour, linewidth=2)
        axis.plot(
            [row["average"] for row in rows],
            [y] * len(rows),
            linewidth=0,
            marker=style.marker(kind),
            markersize=4.2,
            markerfacecolor="white",
            markeredgecolor=colour,
            markeredgewidth=0.9,
        )


_DASHES = {"start": "--", "teacher": ":"}


def _handles(data: Sequence[dict[str, Any]]) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey = style.colour("reference")
    handles: list[Any] = [
        Line2D([], [], color=grey, linestyle=_DASHES[name], label=f"{name}, mean")
        for name in REFERENCES
        if any(row["method"] == name for row in data)
    ]
    for row in data:
        if row["is_baseline"]:
            colour = style.colour(family(row["method"]))
            text = f"{row['label']}, its interval"
            handles.append(Patch(color=colour, alpha=0.2, label=text))
            break
    return handles
