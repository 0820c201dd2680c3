"""Palette: contrast, order of lightness, and variables of the page."""

import re
from importlib.resources import files

import pytest

from targetsft_jax import palette

INK = 4.5
"""Contrast of text that WCAG 2 requires at level AA."""
GRAPHIC = 3.0
"""Contrast of graphics that WCAG 2 requires."""


def test_contrast_is_that_of_the_standard() -> None:
    assert palette.contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert palette.contrast("#FFFFFF", "#777777") == pytest.approx(4.478, abs=1e-3)
    assert palette.luminance("#FF0000") == pytest.approx(0.2126)


@pytest.mark.parametrize("theme", palette.THEMES)
@pytest.mark.parametrize("name", palette.RAMPS)
def test_text_is_readable_on_every_level(name: str, theme: str) -> None:
    ink = palette.variable("ink", theme)
    for colour in palette.ramp(palette.RAMPS[name][theme], palette.LEVELS):
        assert palette.contrast(ink, colour) >= INK


@pytest.mark.parametrize("theme", palette.THEMES)
def test_words_and_bars_are_visible(theme: str) -> None:
    for surface in ("paper", "panel"):
        colour = palette.variable(surface, theme)
        for name in ("ink", "muted", "accent"):
            assert palette.contrast(palette.variable(name, theme), colour) >= INK
        for name in ("student", "teacher", "reference", "before", "target", "negative"):
            assert palette.contrast(palette.variable(name, theme), colour) >= GRAPHIC


@pytest.mark.parametrize("name", ["probability", "amount"])
@pytest.mark.parametrize("theme", palette.THEMES)
def test_one_sided_ramps_are_ordered_by_lightness(name: str, theme: str) -> None:
    colours = palette.ramp(palette.RAMPS[name][theme], palette.LEVELS)
    light = [palette.luminance(colour) for colour in colours]
    assert light == sorted(light, reverse=theme == "light")
    heat = [palette.luminance(c) for c in palette.ramp(palette.HEAT, 64)]
    assert heat == sorted(heat, reverse=True)


def test_a_ramp_passes_through_its_anchors() -> None:
    anchors = ("#102030", "#a0b0c0", "#ffffff")
    colours = palette.ramp(anchors, 5)
    assert colours[::2] == list(anchors)
    # Half of the way in OKLab from black to white has L = 0.5: linear light 0.125.
    assert palette.ramp(("#000000", "#ffffff"), 3)[1] == "#636363"


def test_the_style_sheet_uses_declared_variables_only() -> None:
    folder = files("targetsft_jax.inspection") / "template"
    sources = [folder / name for name in ("page.css", "curve.js", "detail.js")]
    text = "".join(source.read_text(encoding="utf-8") for source in sources)
    used = set(re.findall(r"var\(--([\w-]+)", text))
    for theme in palette.THEMES:
        declared = set(re.findall(r"--([\w-]+):", palette.css_variables(theme)))
        local = {"bar", "zero", "run", "run-"}
        assert used - local <= declared
