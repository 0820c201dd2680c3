"""Switch of the method on the command line: keys of the file for another method."""

from collections.abc import Mapping
from typing import Any

from targetsft_jax.config.tree import Tree
from targetsft_jax.targets.api import get_method, hyper_parameters
from targetsft_jax.targets.inputs import INPUTS


class MethodSwitch:
    """Record of the origin of `target` and `policy` keys of a command line.

    With `--config quickstart --target.name dft`, the hyper-parameters in the file are
    those of the file's method. The ones that dft lacks are left out. A key on the
    command line itself is never left out.
    """

    def __init__(self) -> None:
        self._from_file: set[str] = set()
        self._named = False

    def read_file(self, file: Mapping[str, Any]) -> None:
        """Record the keys of a configuration file."""
        for section in ("target", "policy"):
            keys = file.get(section)
            if isinstance(keys, Mapping):
                self._from_file |= {f"{section}.{key}" for key in keys}
        if "target.name" in self._from_file:
            # The file follows the command line's method, so that it takes precedence.
            self._named = False
            self._from_file.discard("target.name")

    def read_argument(self, key: str) -> None:
        """Record a key of the command line, such as target.eta."""
        self._from_file.discard(".".join(key.split(".")[:2]))
        self._named = self._named or key == "target.name"

    def apply(self, tree: Tree) -> tuple[Tree, str]:
        """Leave out the keys of the file that the command line's method lacks.

        Args:
            tree: configuration tree of the command line.

        Returns:
            The tree without these keys, and a message that names them, empty if there
            is none. The tree is unchanged if the method is unknown: its error follows.
        """
        if not self._named:
            return tree, ""
        target, policy = _section(tree, "target"), _section(tree, "policy")
        try:
            method = get_method(target["name"])
        except ValueError:
            return tree, ""
        extra = [
            key
            for key, value in target.items()
            if f"target.{key}" in self._from_file
            and key not in method.hyper
            and value is not None
        ]
        rest = {k: v for k, v in target.items() if k not in extra}
        inputs = _inputs(rest)
        unread = [
            key
            for key in INPUTS
            if f"policy.{key}" in self._from_file
            and inputs is not None
            and key not in inputs
            and policy.get(key) is not None
        ]
        names = [*(f"target.{k}" for k in extra), *(f"policy.{k}" for k in unread)]
        if not names:
            return tree, ""
        switched = dict(tree, target=rest)
        if unread:
            switched["policy"] = {k: v for k, v in policy.items() if k not in unread}
        verb = "is" if len(names) == 1 else "are"
        return switched, (
            f"{', '.join(names)} of the file {verb} left out, since method "
            f"{method.name} has no such key"
        )


def _section(tree: Tree, name: str) -> dict[str, Any]:
    part = tree.get(name)
    return part if isinstance(part, dict) else {}


def _inputs(target: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Inputs of the method of a section; None if a hyper-parameter is invalid."""
    values = {k: v for k, v in target.items() if k != "name" and v is not None}
    method = get_method(target["name"])
    try:
        hyper = hyper_parameters(method, values)
    except ValueError:
        return None
    return None if method.refusal(**hyper) else method.inputs(**hyper)
