"""Figure in the layout of the paper: settings as columns, methods as lines."""

from collections.abc import Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import family
from targetsft_jax.experiments.comparison.statistics import Statistics
from targetsft_jax.targets.methods import METHODS

PUBLISHED = {
    "start": "Base",
    "sft": "SFT",
    "dft": "SFT(p)",
    "kd": "Distill",
    "target_sft": "Target-SFT",
}
"""Method -> its name in the published figure, in its order."""

_EMPHASISED = "target_sft"
_LINES = {
    "start": {"linestyle": ":", "marker": "X"},
    "sft": {"linestyle": "-", "marker": "o"},
    "dft": {"linestyle": "--", "marker": "s"},
    "kd": {"linestyle": "-.", "marker": "^"},
    "target_sft": {"linestyle": "-", "marker": "D"},
}


def settings_data(statistics: Statistics) -> list[dict[str, Any]]:
    """Rows of the figure: one per setting and line; scores in per cent.

    A method with several labels is represented by the one with its default
    hyper-parameters, else by its first label; never by its best one.
    """
    rows = []
    for method, name in PUBLISHED.items():
        label = representative(statistics, method)
        for setting in statistics.settings:
            if label in setting.scores:
                estimate = setting.scores[label].over_problems
                rows.append(
                    {
                        "setting": setting.name,
                        "line": name,
                        "label": label,
                        "method": method,
                        "mean": 100 * estimate.value,
                        "low": 100 * estimate.low,
                        "high": 100 * estimate.high,
                    }
                )
    return rows


def representative(statistics: Statistics, method: str) -> str:
    """Label that stands for a method; "" if the method has no results."""
    labels = [label for label, name in statistics.labels.items() if name == method]
    defaults = METHODS[method].defaults if method in METHODS else {}
    for label in labels:
        for setting in statistics.settings:
            if label in setting.scores:
                hyper = setting.scores[label].hyper
                if all(defaults.get(key) == hyper[key] for key in hyper):
                    return label
    return labels[0] if labels else ""


def draw_settings(data: Sequence[dict[str, Any]]) -> Any:
    """Draw the lines; returns the figure.

    Args:
        data: rows of `settings_data`.
    """
    settings = list(dict.fromkeys(row["setting"] for row in data))
    figure = style.canvas(style.WIDTH, 4.6)
    axis = figure.subplots()
    lines = list(dict.fromkeys(row["method"] for row in data))
    for number, method in enumerate(lines):
        rows = [row for row in data if row["method"] == method]
        # Side by side, so that whiskers do not hide each other.
        shift = 0.07 * (number - (len(lines) - 1) / 2)
        x = [settings.index(row["setting"]) + shift for row in rows]
        _line(axis, x, rows, method)
    axis.set_xticks(range(len(settings)), [_wrapped(name) for name in settings])
    axis.set_xlim(-0.5, len(settings) - 0.5)
    axis.set_ylabel("Average@k, %")
    axis.grid(axis="y")
    figure.suptitle(
        "Average@k by setting, with 95 % intervals over problems",
        fontsize=style.TITLE + 1,
    )
    figure.legend(loc="outside lower center", ncols=len(lines), handlelength=3.5)
    return figure


def _line(
    axis: Any, x: Sequence[float], rows: Sequence[dict[str, Any]], method: str
) -> None:
    colour = style.colour(family(method))
    is_emphasised = method == _EMPHASISED
    means = [row["mean"] for row in rows]
    name = PUBLISHED[method]
    label = rows[0]["label"]
    axis.plot(
        x,
        means,
        color=colour,
        linewidth=3 if is_emphasised else 1.5,
        markersize=9 if is_emphasised else 6,
        markeredgecolor="white",
        label=name if label == method else f"{name}: {label}",
        zorder=4 if is_emphasised else 3,
        **_LINES[method],
    )
    axis.vlines(
        x,
        [row["low"] for row in rows],
        [row["high"] for row in rows],
        color=colour,
        linewidth=2 if is_emphasised else 1,
        zorder=2,
    )


def _wrapped(name: str) -> str:
    """Setting with line breaks after about 16 characters."""
    lines = [""]
    for part in name.replace("_", " ").split(" "):
        if lines[-1] and len(lines[-1]) + len(part) > 15:
            lines.append(part)
        else:
            lines[-1] = f"{lines[-1]} {part}".strip()
    return "\n".join(lines)
