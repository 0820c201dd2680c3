"""Tables of contents that need no entry for a new page.

`<remaining pages>` on the start page becomes the list of all pages that no table of
contents there has, and the page `NAME` lists the pages of the folder `NAME/`.
"""

import re

from sphinx.application import Sphinx

MARK = "<remaining pages>"

_ENTRIES = re.compile(r"```\{toctree\}\n(.*?)```", re.S)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True}


def _fill(app: Sphinx, name: str, source: list[str]) -> None:
    pages = sorted(app.env.found_docs)
    if any(page.startswith(f"{name}/") for page in pages):
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n\n{name}/*\n```\n"
    if name == "index":
        listed = {name}
        for entries in _ENTRIES.findall(source[0]):
            listed |= {line.strip() for line in entries.splitlines()}
        remaining = [page for page in pages if page not in listed and "/" not in page]
        source[0] = source[0].replace(MARK, "\n".join(remaining))
