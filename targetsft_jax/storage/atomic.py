"""A small text file that is whole whenever it is read: as it was, or as it will be."""

from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a file of UTF-8 text under another name, which it then exchanges."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
