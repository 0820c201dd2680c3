"""Comparison of a run's configuration with that of its resumption."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from targetsft_jax.config.load import renamed_tree
from targetsft_jax.config.schema import Config
from targetsft_jax.keys import resumable_keys


def changed_keys(before: Mapping[str, Any], after: Config) -> list[str]:
    """Differences in the keys that determine the trained model, one sentence each.

    Args:
        before: the tree that the run directory holds. Keys of former versions are
            read under their new names; a key that is younger than the run has its
            default.
        after: the configuration of the resumption.
    """
    defaults = dict(_flatten(dataclasses.asdict(Config())))
    old = defaults | dict(_flatten(renamed_tree(before)))
    new = defaults | dict(_flatten(dataclasses.asdict(after)))
    free = tuple(resumable_keys(Config))
    return [
        f"{key}: was {old.get(key)!r}, is {new.get(key)!r}"
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
