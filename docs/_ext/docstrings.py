"""Docstrings of the package as reStructuredText.

An indented paragraph is an equation or code, and becomes a literal block; `**inputs` is
the text that it is, not the start of bold text.
"""

import re
from typing import Any

from sphinx.application import Sphinx


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension, ahead of napoleon."""
    app.connect("autodoc-process-docstring", _process, priority=100)
    return {"parallel_read_safe": True}


def _process(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    result: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal and len(result) > 1 and not result[-1]:
            literal = not result[-2].startswith(" ")
            result += ["::", ""] if literal else []
        elif line and not indented:
            literal = False
        escaped = re.sub(r"(?<![`*])\*\*(?=\w)", r"\\*\\*", line)
        result.append(line if literal else escaped)
    lines[:] = result
