"""Files outside of `docs/` as pages of the site, with their links.

`docs/contributing.md` holds one link, to `CONTRIBUTING.md`, for readers of the
repository; on the site the page has that file's text. Links between files of the
repository become links between pages, or downloads. The notebooks are copied to
`docs/examples/`, which git ignores.
"""

import os
import re
import shutil
from pathlib import Path

from sphinx.application import Sphinx

PAGES = {
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
    "examples": "examples/README.md",
    "performance": "perf/README.md",
    "index": "README.md",
}
"""Name of a page -> file of the repository. The start page keeps its own text."""

_LINK = re.compile(r"(?<=\]\()(?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?(?=\))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("config-inited", lambda app, config: _copy(Path(app.srcdir)))
    app.connect("source-read", _replace)
    return {"parallel_read_safe": True}


def _copy(docs: Path) -> None:
    folder = docs / "examples"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sorted((docs.parent / "examples").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        text = _relinked(text, path.parent, folder, docs)
        (folder / path.name).write_text(text, encoding="utf-8")


def _replace(app: Sphinx, name: str, source: list[str]) -> None:
    docs = Path(app.srcdir)
    path = Path(app.env.doc2path(name))
    if path.suffix != ".md":
        return
    if name in PAGES and name != "index":
        path = docs.parent / PAGES[name]
        source[0] = path.read_text(encoding="utf-8")
        app.env.note_dependency(str(path))
    page = Path(app.env.doc2path(name)).parent
    source[0] = _relinked(source[0], path.parent, page, docs)


def _relinked(text: str, origin: Path, page: Path, docs: Path) -> str:
    """A text with the links of a file in `origin`, for a page in the folder `page`."""
    return _LINK.sub(
        lambda match: _target(match[1], origin, page, docs) + (match[2] or ""), text
    )


def _target(link: str, origin: Path, page: Path, docs: Path) -> str:
    """A link of a file in `origin`, as a link of a page in the folder `page`."""
    path = Path(os.path.normpath(origin / link))
    if not path.exists():
        return link  # such as `table[key](value)` in code
    for name, file in PAGES.items():
        if path == docs.parent / file:
            path = docs / f"{name}.md"
    if path.parent == docs.parent / "examples":
        path = docs / "examples" / path.name
    return Path(os.path.relpath(path, page)).as_posix()
