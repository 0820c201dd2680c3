"""Appearance of all figures: markers, fonts, canvas, files; colours of the palette.

Each family has its own marker and hatch too, so that figures are readable in grey and
by the colour-blind.
"""

import contextlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from targetsft_jax.extras import import_extra
from targetsft_jax.palette import CHALK, FAMILIES, HEAT, RUNS

WIDTH = 10.0
"""Width of a figure in inches; at 1000 pixels a font of 8 points has 11 pixels."""

DPI = 150
"""Pixels per inch of a PNG."""

TITLE, LABEL, SMALL = 10.0, 8.0, 7.0
"""Font sizes in points."""

FAMILY_TITLES = {
    "reference": "not trained here",
    "weighted": "weight on the label",
    "regularised": "regularised SFT",
    "distillation": "distillation",
    "composed": "both: γ and residual",
}
"""Family -> its name in legends, in their order."""

_MARKERS = {
    "reference": "X",
    "weighted": "o",
    "regularised": "s",
    "distillation": "^",
    "composed": "D",
}
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 4)))
_SHAPES = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")

PARAMETERS = {
    "font.family": "DejaVu Sans",
    "font.size": LABEL,
    "axes.titlesize": TITLE,
    "axes.labelsize": LABEL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {list(RUNS)})",
    "xtick.labelsize": LABEL,
    "ytick.labelsize": LABEL,
    "legend.fontsize": LABEL,
    "legend.frameon": False,
    "grid.color": CHALK,
    "grid.linewidth": 0.6,
    "hatch.linewidth": 0.6,
    # Fixed, so that equal data give equal files.
    "svg.hashsalt": "targetsft",
}
"""Fonts, lines and colours, for `matplotlib.pyplot.rcParams.update`."""


def colour(family: str) -> str:
    """Colour of a family."""
    return FAMILIES[family]


def marker(family: str) -> str:
    """Marker of a family."""
    return _MARKERS[family]


def run_colour(number: int) -> str:
    """Colour of a run by its number."""
    return RUNS[number % len(RUNS)]


def member(family: str, number: int, members: int) -> dict[str, Any]:
    """Line of one member of a family: its shade, dash and marker.

    Args:
        family: family of the method.
        number: position of the method in its family, from 0.
        members: methods of the family in the panel.
    """
    place = 0.5 if members == 1 else number / (members - 1)
    # From half as light as the family's colour to 45 % on the way to white.
    shade = [
        c * (0.5 + place) if place < 0.5 else c + (1 - c) * 0.9 * (place - 0.5)
        for c in _rgb(FAMILIES[family])
    ]
    return {
        "color": tuple(shade),
        "linestyle": _DASHES[number % len(_DASHES)],
        "marker": _SHAPES[number % len(_SHAPES)],
    }


def is_dark(colour: Sequence[float]) -> bool:
    """True for a background (red, green, blue) that needs white text."""
    red, green, blue = colour[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue < 0.5


def canvas(width: float, height: float) -> Any:
    """An empty figure of a size in inches.

    Raises:
        ValueError: matplotlib is not installed.
    """
    import_extra("matplotlib.figure", "report", "report")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def heat_map() -> Any:
    """Colour map of shares and scores; lightness falls with the value."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", list(HEAT))


def label(axis: Any, title: str, x: str = "") -> None:
    """Title and horizontal label of a panel."""
    axis.set_title(title, loc="left")
    axis.set_xlabel(x)


@contextlib.contextmanager
def parameters() -> Iterator[None]:
    """Fonts and lines of the figures that are drawn and saved in the block.

    Raises:
        ValueError: matplotlib is not installed.
    """
    canvas(1, 1)
    from matplotlib import rc_context

    with rc_context(PARAMETERS):
        yield


def save(figure: Any, path: Path) -> list[Path]:
    """Save a figure as PNG and SVG, without time stamps; returns both files.

    Args:
        figure: drawn within `parameters`.
        path: file without suffix.
    """
    png, svg = (path.with_name(f"{path.name}.{suffix}") for suffix in ("png", "svg"))
    figure.savefig(png, dpi=DPI, format="png", metadata={"Software": None})
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return [png, svg]


def family_legend(figure: Any, families: Collection[str], more: Sequence[Any]) -> None:
    """Legend of families below all panels.

    Args:
        figure: the figure.
        families: families that occur.
        more: further handles, with their labels.
    """
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour(f), marker=marker(f), linewidth=0, label=text)
        for f, text in FAMILY_TITLES.items()
        if f in families
    ]
    figure.legend(
        handles=[*handles, *more], loc="outside lower center", ncols=4, columnspacing=2
    )


def _rgb(text: str) -> tuple[float, float, float]:
    red, green, blue = (int(text[n : n + 2], 16) / 255 for n in (1, 3, 5))
    return red, green, blue
