"""Map of the plane: γ choices as rows, π̃ choices as columns, scores as shades."""

from collections.abc import Sequence
from typing import Any

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.plane import ANY


def draw_plane(data: Sequence[dict[str, Any]]) -> Any:
    """Draw the map; returns the figure.

    Cells without a result are hatched. A row whose γ is 1 is one cell: the residual
    has no weight. Cells of a named method have a frame and its name.

    Args:
        data: rows of `plane.plane_data`.
    """
    gammas = list(dict.fromkeys(row["gamma"] for row in data))
    residuals = _columns(data)
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for row in data:
        cells.setdefault((row["gamma"], row["residual"]), row)
    width = min(style.WIDTH, 3.2 + 1.15 * len(residuals))
    figure = style.canvas(max(6.0, width), 1.7 + 0.72 * len(gammas))
    axis = figure.subplots()
    shades = _shades(data)
    for y, gamma in enumerate(gammas):
        if (gamma, ANY) in cells:
            _cell(axis, cells[gamma, ANY], 0, y, len(residuals), shades)
            continue
        for x, residual in enumerate(residuals):
            if (gamma, residual) in cells:
                _cell(axis, cells[gamma, residual], x, y, 1, shades)
            else:
                _empty(axis, x, y)
    axis.set_xticks([x + 0.5 for x in range(len(residuals))], residuals)
    axis.set_yticks([y + 0.5 for y in range(len(gammas))], gammas)
    axis.set_xlim(0, len(residuals))
    axis.set_ylim(len(gammas), 0)
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    axis.set_xlabel("residual: where the remaining mass goes")
    axis.set_ylabel("γ: weight of the label")
    bar = figure.colorbar(shades, ax=axis, pad=0.02, fraction=0.05)
    bar.set_label("Average@k, %")
    bar.outline.set_visible(False)
    setting = data[0]["setting"]
    figure.suptitle(
        f"{setting + ': ' if setting else ''}the plane of targets, Average@k in % and "
        "95 % interval over problems",
        fontsize=style.TITLE + 1,
    )
    return figure


def _columns(data: Sequence[dict[str, Any]]) -> list[str]:
    """Columns from left to right: the rows of the data are sorted by line."""
    order = {row["residual"]: row["column"] for row in data}
    return [name for name in sorted(order, key=lambda n: order[n]) if name != ANY]


def _shades(data: Sequence[dict[str, Any]]) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    means = [row["mean"] for row in data]
    return ScalarMappable(Normalize(min(means), max(means)), style.heat_map())


def _cell(
    axis: Any, row: dict[str, Any], x: int, y: int, columns: int, shades: Any
) -> None:
    from matplotlib.patches import Rectangle

    colour = shades.to_rgba(row["mean"])
    ink = "white" if style.is_dark(colour) else "black"
    axis.add_patch(
        Rectangle((x, y), columns, 1, facecolor=colour, edgecolor="white", linewidth=2)
    )
    middle = x + columns / 2
    top = y + (0.33 if row["named"] else 0.4)
    text = {"ha": "center", "va": "center", "color": ink}
    axis.text(middle, top, f"{row['mean']:.1f}", **text, fontsize=10, weight="bold")
    interval = f"{row['low']:.1f} to {row['high']:.1f}"
    axis.text(middle, top + 0.26, interval, **text, fontsize=style.SMALL)
    if row["named"]:
        frame = Rectangle(
            (x + 0.04, y + 0.05),
            columns - 0.08,
            0.9,
            fill=False,
            edgecolor=ink,
            linewidth=1.2,
        )
        axis.add_patch(frame)
        axis.text(
            middle, y + 0.82, row["named"], **text, fontsize=style.SMALL, style="italic"
        )


def _empty(axis: Any, x: int, y: int) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(
        Rectangle(
            (x + 0.02, y + 0.02),
            0.96,
            0.96,
            facecolor="white",
            edgecolor="#bbbbbb",
            hatch="///",
            linewidth=0.5,
        )
    )
