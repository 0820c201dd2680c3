"""Panels with one row per label and one column per setting."""

from collections.abc import Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import family, label_order, short


def rows_of_labels(
    data: Sequence[dict[str, Any]], title: str
) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """Create a figure of one panel per setting whose vertical axis has the labels.

    The labels are beside the first panel of every line only; families are separated
    by a thin line.

    Args:
        data: rows with the keys setting, label and method.
        title: title of the figure.

    Returns:
        The figure; setting -> axes; label -> method, from top to bottom.
    """
    settings = list(dict.fromkeys(row["setting"] for row in data))
    labels = label_order({row["label"]: row["method"] for row in data})
    columns = _columns(len(settings))
    lines = -(-len(settings) // columns)
    height = 1.3 + lines * (0.75 + 0.19 * len(labels))
    figure = style.canvas(style.WIDTH, height)
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for axis in axes[len(settings) :]:
        axis.axis("off")
    result = dict(zip(settings, axes))
    names = list(labels)
    for number, (setting, axis) in enumerate(result.items()):
        axis.set_title(setting or "", loc="left")
        axis.set_ylim(len(names) - 0.4, -0.6)
        axis.set_yticks(range(len(names)), [short(name) for name in names])
        axis.tick_params(axis="y", length=0, labelleft=number % columns == 0)
        axis.grid(axis="x")
        for row in range(1, len(names)):
            if family(labels[names[row]]) != family(labels[names[row - 1]]):
                axis.axhline(row - 0.5, color="#aaaaaa", linewidth=0.6)
    figure.suptitle(title, fontsize=style.TITLE + 1)
    return figure, result, labels


def _columns(settings: int) -> int:
    """Panels side by side: at most three, or four where that saves a line."""
    lines = -(-settings // 4)
    return min(settings, 3) if settings <= 3 * lines else 4
