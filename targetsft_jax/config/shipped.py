"""Configurations that are shipped with the package, by name.

    --config quickstart            the shipped file configs/quickstart.yaml
    --config compare/quickstart    configs/compare/quickstart.yaml
    --config my/run.yaml           a file of the user

In a checkout, `targetsft_jax/configs` is a link to the folder `configs` beside the
package; in a wheel it is a copy.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path

from targetsft_jax.command import UsageError

FOLDER = Path(__file__).resolve().parents[1] / "configs"


def names() -> Mapping[str, Path]:
    """Every shipped configuration: name -> file."""
    return {
        path.relative_to(FOLDER).with_suffix("").as_posix(): path
        for path in sorted(FOLDER.glob("**/*.yaml"))
    }


def find(name: str) -> Path:
    """The file of a configuration.

    Args:
        name: a path, or the name of a shipped configuration. An existing file takes
            precedence over a name; `configs/NAME.yaml` is a name too, so that printed
            commands work without a checkout.

    Raises:
        UsageError: neither a file nor a name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = names()
    key = path.as_posix().removeprefix("configs/").removesuffix(".yaml")
    if key in shipped:
        return shipped[key]
    similar = difflib.get_close_matches(key, shipped, n=1)
    hint = f". Did you mean {similar[0]}?" if similar else ""
    raise UsageError(
        f"--config {name} does not exist; expected a YAML file or one of the shipped "
        f"configurations {', '.join(shipped)}{hint}"
    )
