"""Palette: the colours of figures and of the inspection page, each declared once.

Hues are those of Okabe and Ito, and differ in lightness too: figures are readable in
grey and by the colour-blind. A ramp is interpolated in OKLab, where equal distances
look equal. Levels of the page's ramps are tints behind text, readable on all of them.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

BLUE, ORANGE, GREEN = "#0072B2", "#E69F00", "#009E73"
WINE, SKY, VERMILION = "#882255", "#56B4E9", "#D55E00"
CHARCOAL, GREY, SILVER, CHALK = "#444444", "#777777", "#AAAAAA", "#DDDDDD"

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "reference": "#555555",
        "weighted": BLUE,
        "regularised": ORANGE,
        "distillation": GREEN,
        "composed": WINE,
    }
)
"""Family of methods -> its colour."""

RUNS = (BLUE, ORANGE, GREEN, WINE, SKY, CHARCOAL)
"""Colours of runs or methods without a family, in their order."""

PARTS = (SKY, ORANGE, GREEN, WINE, VERMILION, "#CC79A7", GREY)
"""Colours of the parts of a bar beside its main part."""

HEAT = ("#F7F6F2", "#A9CBE5", "#4C95C9", "#0B5C93", "#0A2F4E")
"""Anchors of the colour map of figures: lightness falls with the value."""

LEVELS = 33
"""Levels of a ramp of the page; odd, so that a diverging one has a middle."""

THEMES = ("light", "dark")

RAMPS: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType(
    {
        # Diverging: from doubt over neutral to trust.
        "trust": {
            "light": ("#E9A15B", "#F2C99C", "#F3F1EC", "#C9DDEE", "#A3C8E8"),
            "dark": ("#8F4A0E", "#5C3C20", "#292B2F", "#26405A", "#234F7A"),
        },
        # One-sided, for probabilities.
        "probability": {
            "light": ("#F4F2ED", "#C9DDEE", "#93BFE6"),
            "dark": ("#26282C", "#26405A", "#20548A"),
        },
        # One-sided, for amounts: entropy, disagreement, movement.
        "amount": {
            "light": ("#F4F2ED", "#DFC3D6", "#C994BA"),
            "dark": ("#26282C", "#523449", "#7F3B6B"),
        },
    }
)
"""Ramp of the page -> theme -> anchors."""

_VARIABLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "paper": ("#FCFBF8", "#17191C"),
        "panel": ("#FFFFFF", "#1F2226"),
        "ink": ("#1E2227", "#E8E6E1"),
        "muted": ("#5C6269", "#A3A8AE"),
        "faint": ("#9AA0A6", "#6E747B"),
        "line": ("#E4E1DA", "#34383D"),
        "accent": (BLUE, "#6DB9EE"),
        "student": (BLUE, "#5AAFE8"),
        "teacher": (GREEN, "#3CC49A"),
        "reference": ("#8A6D00", "#D8B84A"),
        "before": (GREY, "#9AA0A6"),
        "target": (WINE, "#E07BAF"),
        "negative": (VERMILION, "#F08A4B"),
        "run-0": (BLUE, "#5AAFE8"),
        "run-1": ("#B87C00", "#F0B43C"),
        "run-2": (GREEN, "#3CC49A"),
        "run-3": (WINE, "#E07BAF"),
        "run-4": ("#3B93C7", "#9AD3F5"),
        "run-5": (CHARCOAL, "#BFC3C7"),
    }
)
"""CSS variable -> its colour in the light and in the dark theme."""


def variable(name: str, theme: str) -> str:
    """Colour of a CSS variable in a theme."""
    return _VARIABLES[name][THEMES.index(theme)]


def css_variables(theme: str) -> str:
    """Declarations of the variables and of all levels of the ramps in a theme."""
    lines = [f"--{name}: {variable(name, theme)};" for name in _VARIABLES]
    for name, anchors in RAMPS.items():
        levels = ramp(anchors[theme], LEVELS)
        lines += [f"--{name}-{n}: {colour};" for n, colour in enumerate(levels)]
    return "\n".join(lines)


def ramp(anchors: Sequence[str], levels: int) -> list[str]:
    """Colours at equal distances along the anchors, interpolated in OKLab.

    Args:
        anchors: at least two colours, at equal distances.
        levels: number of colours; at least two.
    """
    points = [_oklab(anchor) for anchor in anchors]
    colours = []
    for level in range(levels):
        place = level / (levels - 1) * (len(points) - 1)
        first = min(int(place), len(points) - 2)
        share = place - first
        colours.append(
            _hex(
                [
                    (1 - share) * low + share * high
                    for low, high in zip(points[first], points[first + 1])
                ]
            )
        )
    return colours


def luminance(colour: str) -> float:
    """Relative luminance in [0, 1], as WCAG 2 defines it."""
    red, green, blue = _linear(colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _linear(colour: str) -> list[float]:
    """Linear-light red, green and blue of "#RRGGBB"."""
    channels = (int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5))
    return [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    ]


# Matrices of OKLab (Björn Ottosson, 2020): linear sRGB to cone responses, and their
# cube roots to lightness and two colour axes.
_CONES = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)
_LAB_TO_ROOTS = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_CONES_TO_RGB = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)


def _product(matrix: Sequence[Sequence[float]], vector: Sequence[float]) -> list[float]:
    return [sum(m * v for m, v in zip(row, vector)) for row in matrix]


def _oklab(colour: str) -> list[float]:
    return _product(_LAB, [c ** (1 / 3) for c in _product(_CONES, _linear(colour))])


def _hex(lab: Sequence[float]) -> str:
    linear = _product(_CONES_TO_RGB, [c**3 for c in _product(_LAB_TO_ROOTS, lab)])
    channels = [
        12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055
        for c in (min(max(c, 0.0), 1.0) for c in linear)
    ]
    return "#" + "".join(f"{round(255 * c):02x}" for c in channels)
