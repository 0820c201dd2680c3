"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """Path with a leading `~` expanded; `~name` of an unknown user is unchanged.

    `Path.expanduser` raises RuntimeError for such a name.

    Raises:
        ValueError: a URL, which pathlib would turn into another text.
    """
    if "://" in str(path):
        raise ValueError(f"{path} is a URL; expected a local path")
    return Path(os.path.expanduser(path))
