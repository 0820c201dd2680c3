"""Forest plot: paired differences to the baseline, with 0 marked."""

from collections.abc import Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import family
from targetsft_jax.experiments.comparison.panels import rows_of_labels
from targetsft_jax.experiments.comparison.statistics import Statistics

_MACRO = "mean over settings"

LEVEL = 0.05
"""Level of the tests."""


def forest_data(statistics: Statistics) -> list[dict[str, Any]]:
    """Rows of the figure: one per setting and label, and the means over settings.

    Differences in percentage points; the intervals over seeds are empty below three
    seeds, and p-values for the means.
    """
    rows = []
    for setting in statistics.settings:
        for label, score in setting.scores.items():
            difference = score.difference
            if difference is None:
                continue
            seeds = difference.over_seeds
            rows.append(
                _row(setting.name, label, score.method, difference.over_problems)
                | {
                    "seeds_low": 100 * seeds.low if seeds else None,
                    "seeds_high": 100 * seeds.high if seeds else None,
                    "p_value": difference.p_value,
                    "adjusted_p_value": difference.adjusted_p_value,
                    "baseline": statistics.baseline,
                }
            )
    for label, macro in statistics.macro.items():
        if macro.difference is not None:
            empty = dict.fromkeys(
                ("seeds_low", "seeds_high", "p_value", "adjusted_p_value")
            )
            method = statistics.labels[label]
            rows.append(
                _row(_MACRO, label, method, macro.difference)
                | empty
                | {"baseline": statistics.baseline}
            )
    return rows


def draw_forest(data: Sequence[dict[str, Any]]) -> Any:
    """Draw one panel per setting, and one of the means; returns the figure.

    Args:
        data: rows of `forest_data`.
    """
    from matplotlib.lines import Line2D

    title = (
        f"Difference to {data[0]['baseline']} on the same problems, percentage points"
    )
    figure, axes, order = rows_of_labels(data, title)
    for setting, axis in axes.items():
        axis.axvline(0, color="black", linewidth=1.2)
        for row in data:
            if row["setting"] == setting:
                _whisker(axis, row, list(order).index(row["label"]))
    grey: dict[str, Any] = {"color": "#555555", "marker": "o", "linewidth": 0}
    handles = [
        Line2D([], [], **grey, label=f"Holm-adjusted p < {LEVEL:g}"),
        Line2D([], [], **grey, markerfacecolor="white", label="not so, or no test"),
        Line2D([], [], color="#555555", linewidth=1.6, label="95 % over problems"),
    ]
    if any(row["seeds_low"] is not None for row in data):
        handles.append(
            Line2D(
                [],
                [],
                color="#555555",
                linewidth=0,
                marker="|",
                markersize=8,
                label="95 % over seeds, ends",
            )
        )
    families = {family(method) for method in order.values()}
    style.family_legend(figure, families, handles)
    return figure


def _row(setting: str, label: str, method: str, difference: Any) -> dict[str, Any]:
    return {
        "setting": setting,
        "label": label,
        "method": method,
        "difference": 100 * difference.value,
        "low": 100 * difference.low,
        "high": 100 * difference.high,
    }


def _whisker(axis: Any, row: dict[str, Any], y: int) -> None:
    kind = family(row["method"])
    colour = style.colour(kind)
    is_significant = (
        row["adjusted_p_value"] is not None and row["adjusted_p_value"] < LEVEL
    )
    axis.hlines(y, row["low"], row["high"], color=colour, linewidth=1.6)
    if row["seeds_low"] is not None:
        ends = [row["seeds_low"], row["seeds_high"]]
        axis.plot(ends, [y, y], "|", color=colour, markersize=6, markeredgewidth=1)
    axis.plot(
        row["difference"],
        y,
        marker=style.marker(kind),
        markersize=5,
        color=colour,
        markerfacecolor=colour if is_significant else "white",
    )
