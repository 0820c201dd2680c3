"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | Path) -> Path:
    """Path with a leading `~` expanded; `~name` of an unknown user is unchanged.

    `Path.expanduser` raises RuntimeError for such a name.
    """
    return Path(os.path.expanduser(path))
