"""Coverage of the API page: every public name must be documented.

A public name is one in the `__all__` of a package. Each that no page documents is a
warning, which fails a build with `-W`.
"""

import ast
import importlib
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

PACKAGE = "targetsft_jax"

_log = logging.getLogger(__name__)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}


def public_names(root: Path) -> dict[str, str]:
    """Public name -> its module, for all packages with an `__all__`."""
    names = {}
    for path in sorted((root / PACKAGE).rglob("__init__.py")):
        module = ".".join(path.parent.relative_to(root).parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and any(
                isinstance(to, ast.Name) and to.id == "__all__" for to in node.targets
            ):
                for name in ast.literal_eval(node.value):
                    names[f"{module}.{name}"] = module
    return names


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    documented = env.domaindata["py"]["objects"]
    same = {id(value) for name in documented if (value := _value(name)) is not None}
    for name in public_names(Path(app.srcdir).parent):
        if name not in documented and id(_value(name)) not in same:
            _log.warning("%s is public and on no page; add it to docs/api.md", name)


def _value(name: str) -> Any:
    """The object of a dotted name, or None."""
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
