"""Shipped configurations, by name.

    --config quickstart            the shipped file configs/quickstart.yaml
    --config compare/quickstart    configs/compare/quickstart.yaml
    --config my/run.yaml           a user's file

In a checkout, `targetsft_jax/configs` is a symbolic link to `configs/` at the root of
the repository; in a wheel it is a copy.
"""

import difflib
import os
from collections.abc import Mapping
from pathlib import Path

from targetsft_jax.command import UsageError
from targetsft_jax.keys import shown_name
from targetsft_jax.storage.user_path import user_path

FOLDER = Path(__file__).resolve().parents[1] / "configs"


def names() -> Mapping[str, Path]:
    """Return all shipped configurations: name -> file."""
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path
        for path in sorted(FOLDER.glob("**/*.yaml"))
    }


def find(name: str) -> Path:
    """Locate a configuration file.

    Args:
        name: a path, or the name of a shipped configuration. An existing file takes
            precedence; a folder or pipe is returned if no configuration has the name.
            `configs/NAME.yaml` is also a name, so that printed commands work without a
            checkout.

    Raises:
        UsageError: there is no such file or shipped configuration.
    """
    path = user_path(name)
    if os.path.isfile(path):
        return path
    shipped = names()
    key = path.as_posix().removeprefix("configs/").removesuffix(".yaml")
    if key in shipped:
        return shipped[key]
    if os.path.lexists(path):
        return path  # a folder or pipe: the reader names its kind
    similar = difflib.get_close_matches(key, shipped, n=1)
    hint = f". Did you mean {similar[0]}?" if similar else ""
    raise UsageError(
        f"--config {shown_name(name)} does not exist; expected a YAML file or one "
        f"of the shipped configurations {', '.join(shipped)}{hint}"
    )
