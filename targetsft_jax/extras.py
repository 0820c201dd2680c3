"""Import of packages of an extra, with an error that names the extra."""

import importlib
from types import ModuleType


def import_extra(module: str, extra: str, user: str, remedy: str = "") -> ModuleType:
    """Import a module that is not part of the base installation.

    Args:
        module: dotted name of the module.
        extra: extra of this package that installs it.
        user: key and value, command or file that needs it, for the message.
        remedy: what to do instead, such as "or set log.wandb to null".

    Raises:
        ValueError: its package is not installed. Other errors of the import, of a
            package that is installed but damaged, pass through.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise
    raise ValueError(
        f"{user} needs {package}, which is not installed; "
        f'pip install "targetsft-jax[{extra}]"' + (f", {remedy}" if remedy else "")
    )
