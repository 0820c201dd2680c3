"""List and copy the shipped configurations."""

import re
from collections.abc import Iterator
from pathlib import Path

from targetsft_jax.config.shipped import find, names
from targetsft_jax.storage.atomic import write_text

_BASE = re.compile(r"^base: \.\./(\S+)\.yaml$", re.MULTILINE)
"""Base of a comparison: a path beside it, which a copy would not have."""


def listing() -> Iterator[str]:
    """Yield a line per shipped configuration, grouped by the command that reads it."""
    shipped = names()
    width = max(map(len, shipped))
    groups = {
        "train, plan, datasets preview": lambda name: not name.startswith("compare/"),
        "compare": lambda name: name.startswith("compare/"),
    }
    for command, belongs in groups.items():
        yield f"{command} --config NAME"
        for name, path in shipped.items():
            if belongs(name):
                yield f"  {name:<{width}}  {about(path)}"
    yield "copy one to edit it: targetsft configs cp NAME [FILE]"


def about(path: Path) -> str:
    """First comment line of a configuration."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def copy(name: str, destination: Path | None) -> Path:
    """Copy a shipped configuration; a comparison's base becomes a shipped name.

    Args:
        name: name of the configuration.
        destination: file or folder; None: the current folder.

    Returns:
        The written file.

    Raises:
        UsageError: there is no configuration of this name.
        FileExistsError: the file exists.
    """
    source = find(name)
    target = destination or Path()
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise FileExistsError(
            f"{target} exists already; expected a new file, such as targetsft configs "
            f"cp {name} my_{source.name}"
        )
    text = _BASE.sub(r"base: \1", source.read_text(encoding="utf-8"))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)
    return target
