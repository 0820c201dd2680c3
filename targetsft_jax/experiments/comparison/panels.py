"""Panels with one row per label and one column per setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import family, short


def rows_of_labels(
    figure: Any, settings: Sequence[str], labels: Mapping[str, str], title: str
) -> dict[str, Any]:
    """Create one panel per setting whose vertical axis has the labels.

    The labels are beside the first panel of every line only; families are separated
    by a thin line.

    Args:
        figure: an empty figure.
        settings: names of the settings.
        labels: label -> method, from top to bottom.
        title: title of the figure.

    Returns:
        Setting -> axes.
    """
    columns = _columns(len(settings))
    lines = -(-len(settings) // columns)
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
    return result


def height(settings: int, labels: int) -> float:
    """Height in inches of a figure of `rows_of_labels`."""
    lines = -(-settings // _columns(settings))
    return 1.3 + lines * (0.75 + 0.19 * labels)


def _columns(settings: int) -> int:
    """Panels side by side: at most three, or four where that saves a line."""
    lines = -(-settings // 4)
    return min(settings, 3) if settings <= 3 * lines else 4
