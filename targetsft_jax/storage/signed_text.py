"""Text files with a checksum in their first line, which proves that they are unchanged.

    # targetsft-jax 3f2a90c1d4e5b678: written by a run; do not edit

The first line is a comment in YAML and in most other formats.
"""

import re
from pathlib import Path

from targetsft_jax.storage import atomic
from targetsft_jax.storage.digest import text_digest

_FIRST = "# targetsft-jax {digest}: written by a run; do not edit\n"
_PATTERN = re.compile(_FIRST.format(digest="([0-9a-f]{16})").rstrip())


def write(path: Path, text: str) -> None:
    """Write a file atomically, with its first line."""
    atomic.write_text(path, _FIRST.format(digest=text_digest(text)) + text)


def read(path: Path) -> str | None:
    """Text below the first line; None for a file that is missing or was changed."""
    try:
        first, _, text = path.read_bytes().decode("utf-8").partition("\n")
    except (OSError, ValueError):
        return None
    match = _PATTERN.fullmatch(first)
    return text if match and match[1] == text_digest(text) else None
