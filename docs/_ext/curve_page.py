"""Interactive curve of the inspection page, as `_static/curve.html` of the site.

Gradient and induced target against p_y, for all methods; `framework.md` embeds it.
"""

from pathlib import Path

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    from targetsft_jax import METHODS
    from targetsft_jax.inspection.curve_data import curve_data
    from targetsft_jax.inspection.method_inputs import PageMethod
    from targetsft_jax.inspection.page import render_curve

    methods = [PageMethod(entry, entry.defaults) for entry in METHODS.values()]
    text = render_curve(curve_data(methods))
    (Path(app.outdir) / "_static" / "curve.html").write_text(text, encoding="utf-8")
