"""Compare the stored configuration of a run with that of a resume."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from targetsft_jax.config.load import renamed_tree
from targetsft_jax.config.schema import Config
from targetsft_jax.keys import resumable_keys, shown, shown_name


def changed_keys(before: Mapping[str, Any], after: Config) -> list[str]:
    """List the changed keys that a resume may not change: `KEY: was A, is B`.

    Args:
        before: tree stored in the run directory. Renamed keys are read under their
            new names; a key added since then has its default.
        after: configuration of the resume.
    """
    defaults = dict(_flatten(dataclasses.asdict(Config())))
    old = defaults | dict(_flatten(renamed_tree(before)))
    new = defaults | dict(_flatten(dataclasses.asdict(after)))
    free = tuple(resumable_keys(Config))
    return [
        f"{shown_name(key)}: was {shown(old.get(key))}, is {shown(new.get(key))}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not _covered(key, free)
    ]


def _covered(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in sections)


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping) or not tree:
        yield prefix.rstrip("."), tree
        return
    for name, part in tree.items():
        yield from _flatten(part, f"{prefix}{name}.")
