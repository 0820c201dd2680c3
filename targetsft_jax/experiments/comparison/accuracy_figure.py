"""Figure of learning against memorising: accuracy on correct and on wrong labels."""

from collections.abc import Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import family, label_order, short
from targetsft_jax.experiments.comparison.placement import place

_COLUMNS = 3
_PANEL_HEIGHT = 2.7
_VERTICAL = {
    "corrupted": "correct token predicted\nat wrong labels, %",
    "memorised": "wrong label predicted\n(memorised), %",
}
"""Column of the data -> title of the vertical axis."""


def draw_accuracy(data: Sequence[dict[str, Any]]) -> Any:
    """Draw two panels per setting with one marker per method; returns the figure.

    Numbers beside the markers are those of the legend.

    Args:
        data: rows of `probe_data.accuracy_data`.
    """
    settings = list(dict.fromkeys(row["setting"] for row in data))
    numbers = {
        label: n
        for n, label in enumerate(label_order({r["label"]: r["method"] for r in data}))
    }
    columns = min(_COLUMNS, len(settings))
    blocks = -(-len(settings) // columns)
    legend = -(-len(numbers) // 4)
    height = 0.9 + 2 * blocks * _PANEL_HEIGHT + 0.17 * legend
    figure = style.canvas(style.WIDTH, height)
    axes = figure.subplots(2 * blocks, columns, squeeze=False)
    panels = []
    for number in range(blocks * columns):
        block, column = divmod(number, columns)
        for line, name in enumerate(_VERTICAL):
            axis = axes[2 * block + line, column]
            if number >= len(settings):
                axis.axis("off")
                continue
            rows = [row for row in data if row["setting"] == settings[number]]
            _points(axis, rows, name)
            panels.append((axis, rows, name))
            axis.set_ylabel(_VERTICAL[name] if column == 0 else "")
            if line == 0:
                axis.set_title(settings[number])
            else:
                axis.set_xlabel("accuracy at correct labels, %")
    _legend(figure, data, numbers)
    figure.suptitle(
        "Accuracy on correct labels against that on wrong labels, after training",
        fontsize=style.TITLE + 1,
    )
    # The layout is final from here: positions of texts are in pixels.
    figure.draw_without_rendering()
    for axis, rows, name in panels:
        _numbers(axis, rows, name, numbers)
    return figure


def _points(axis: Any, rows: Sequence[dict[str, Any]], name: str) -> None:
    for row in rows:
        kind = family(row["method"])
        axis.plot(
            row["clean"],
            row[name],
            marker=style.marker(kind),
            color=style.colour(kind),
            markersize=6,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=0,
        )
    axis.margins(0.16)
    axis.grid()


def _numbers(
    axis: Any,
    rows: Sequence[dict[str, Any]],
    name: str,
    numbers: dict[str, int],
) -> None:
    """Write each method's number beside its marker, without overlaps."""
    points = [tuple(axis.transData.transform((r["clean"], r[name]))) for r in rows]
    box = axis.get_window_extent()
    scale = axis.figure.dpi / 72
    places = place(
        points, 10 * scale, 8 * scale, 4 * scale, (box.x0, box.y0, box.x1, box.y1)
    )
    inverse = axis.transData.inverted()
    for row, (x, y) in zip(rows, places):
        axis.annotate(
            str(numbers[row["label"]]),
            (row["clean"], row[name]),
            inverse.transform((x, y)),
            fontsize=style.SMALL,
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "#999999", "linewidth": 0.5},
        ).arrow_patch.set_zorder(1)


def _legend(
    figure: Any, data: Sequence[dict[str, Any]], numbers: dict[str, int]
) -> None:
    from matplotlib.lines import Line2D

    methods = {row["label"]: row["method"] for row in data}
    handles = []
    for label, number in numbers.items():
        kind = family(methods[label])
        handles.append(
            Line2D(
                [],
                [],
                linewidth=0,
                marker=style.marker(kind),
                color=style.colour(kind),
                label=f"{number}  {short(label)}",
            )
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
