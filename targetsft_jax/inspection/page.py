"""The page as one HTML file: template, styles and scripts around the data.

    html = render(page_data)          # the inspection page
    html = render_curve(curve)        # its curve alone, for the documentation

The file loads nothing: styles, scripts and data are inline, and its content security
policy forbids requests.
"""

import base64
import gzip
import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from targetsft_jax import palette
from targetsft_jax.inspection.page_data import PageData

CURVE_SCRIPTS = ("dom.js", "curve.js")
SCRIPTS = (
    "unpack.js",
    *CURVE_SCRIPTS,
    "model.js",
    "measures.js",
    "state.js",
    "text.js",
    "legend.js",
    "lists.js",
    "detail.js",
    "controls.js",
    "main.js",
)
"""Scripts of the page in the order of inclusion; they share one scope."""


def render(page: PageData) -> str:
    """The inspection page as HTML.

    Args:
        page: its data.

    Raises:
        ValueError: entries or arrays are missing, or of another shape.
    """
    page.check()
    packed = gzip.compress(page.to_bytes(), compresslevel=9, mtime=0)
    return _template("page.html.jinja").render(
        title=page.header["title"],
        style=_style(),
        script=_scripts(SCRIPTS),
        data=Markup(base64.b64encode(packed).decode("ascii")),
    )


def render_curve(curve: Mapping[str, Any]) -> str:
    """A page with the curve alone: gradient and target of methods against p_y.

    Args:
        curve: the entry `curve` of a page's header.
    """
    # "<" would end the script element within a string.
    data = json.dumps(curve, separators=(",", ":")).replace("<", "\\u003c")
    return _template("curve.html.jinja").render(
        style=_style(), script=_scripts(CURVE_SCRIPTS), data=Markup(data)
    )


def _style() -> Markup:
    """Variables of both themes, backgrounds of the levels, and the style sheet."""
    light, dark = map(palette.css_variables, palette.THEMES)
    levels = "\n".join(
        f'[data-ramp="{name}"] .v{n} {{ background: var(--{name}-{n}); }}'
        for name in palette.RAMPS
        for n in range(palette.LEVELS)
    )
    themes = (
        f":root {{\n{light}\n}}\n"
        f"@media screen and (prefers-color-scheme: dark) {{ :root {{\n{dark}\n}} }}"
    )
    return Markup(f"{themes}\n{levels}\n{_source('page.css')}")


def _scripts(names: tuple[str, ...]) -> Markup:
    return Markup("\n".join(map(_source, names)))


@cache
def _source(name: str) -> str:
    folder = files("targetsft_jax.inspection") / "template"
    return (folder / name).read_text(encoding="utf-8")


def _template(name: str) -> jinja2.Template:
    return jinja2.Environment(autoescape=True).from_string(_source(name))
