"""Equations as MathML, which browsers render themselves.

The site therefore needs no script of another host, and is complete offline.
"""

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer `mathml`."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}


def _inline(translator: HTML5Translator, node: nodes.Element) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _block(translator: HTML5Translator, node: nodes.Element) -> None:
    mathml = convert(node.astext(), display="block")
    translator.body.append(f'<div class="equation">{mathml}</div>')
    raise nodes.SkipNode
