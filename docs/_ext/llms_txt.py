"""`llms.txt`: the list of pages with one sentence each, for language models.

Format: https://llmstxt.org. Links go to the Markdown sources, which the site has too.
"""

import re
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

SUMMARY = (
    "Supervised fine-tuning as target distribution design, in JAX and Flax: each loss "
    "trains a model towards a target Q = p − g, here explicit and configurable."
)
HEAD = ("start", "framework", "choosing", "command_line", "python", "data")
"""Pages at the top of the list, in this order."""


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True}


def _write(app: Sphinx, exception: Exception | None) -> None:
    if exception is not None or app.builder.format != "html":
        return
    env = app.env
    pages = sorted(env.found_docs - {"index"}, key=lambda name: ("/" in name, name))
    pages.sort(key=lambda name: HEAD.index(name) if name in HEAD else len(HEAD))
    lines = [f"# {app.config.project}", "", f"> {SUMMARY}", "", "## Documentation", ""]
    for name in pages:
        source = f"_sources/{name}{Path(env.doc2path(name)).suffix}"
        sentence = _first_sentence(env, name)
        end = f": {sentence}" if sentence else ""
        lines.append(f"- [{env.titles[name].astext()}]({source}){end}")
    text = "\n".join(lines) + "\n"
    (Path(app.outdir) / "llms.txt").write_text(text, encoding="utf-8")


def _first_sentence(env: BuildEnvironment, name: str) -> str:
    for paragraph in env.get_doctree(name).findall(nodes.paragraph):
        text = " ".join(paragraph.astext().split())
        return re.split(r"(?<=[.?:]) ", text)[0].rstrip(".:")
    return ""
