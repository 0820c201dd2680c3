"""Compare the stored configuration of a run with that of a resume."""

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from targetsft_jax.command import UsageError
from targetsft_jax.config.load import parse_silently, renamed_tree
from targetsft_jax.config.roles import RoleConfig
from targetsft_jax.config.schema import Config
from targetsft_jax.keys import resumable_keys, shown, shown_name
from targetsft_jax.storage.run_dir import RunDir

LENGTH = ("train.steps", "train.epochs")
"""Keys of the length of a training, which a resume may change: the run is extended."""


def changed_keys(
    before: Mapping[str, Any], after: Config, *, extend: bool = True
) -> list[str]:
    """List the changed keys that a resume may not change: `KEY: was A, is B`.

    Args:
        before: tree stored in the run directory. Renamed keys are read under their
            new names; a key added since then has its default.
        after: configuration of the resume.
        extend: False if the length may not change either.
    """
    free = tuple(k for k in resumable_keys(Config) if extend or k not in LENGTH)
    return [
        f"{shown_name(key)}: was {shown(old)}, is {shown(new)}"
        for key, (old, new) in _differences(before, after).items()
        if not _covered(key, free)
    ]


def continuation(
    before: Mapping[str, Any], after: Config, run_dir: RunDir, *, has_checkpoint: bool
) -> str:
    """Way to train under the changed configuration, in a new run directory.

    Args:
        before: tree stored in the run directory.
        after: configuration of the refused resume.
        run_dir: the run directory.
        has_checkpoint: True if the new run can start from a checkpoint in it.

    Returns:
        A sentence and a command: RUN/config.yaml with the changed keys. The command is
        parsed, so that it is known to work; without one, a sentence about the
        arguments to add.
    """
    path = str(run_dir)
    changed = _differences(before, after)
    # Another student is not to be trained from the checkpoints of this one.
    other_start = any(key.startswith(("student.", "lora")) for key in changed)
    from_checkpoint = has_checkpoint and not other_start
    student = RoleConfig(path=path, dtype=after.student.dtype)
    desired = dataclasses.replace(
        after,
        run_dir=_free_path(path),
        checkpoint_dir=None,
        student=student if from_checkpoint else after.student,
    )
    ends = ["--run_dir", desired.run_dir]
    if after.checkpoint_dir is not None:
        ends += ["--checkpoint_dir", "null"]
    if from_checkpoint:
        ends = ["--student.path", path, *ends]
        if after.student.build is not None:
            ends = ["--student.build", "null", *ends]
    tree = dataclasses.asdict(after)
    overrides: dict[str, str] = {}
    for key in changed:
        if key not in ("run_dir", "checkpoint_dir"):
            name, value = _settable(tree, key)
            overrides[f"--{name}"] = _argument(value)
    pairs = [part for pair in overrides.items() for part in pair]
    arguments = ["--config", str(run_dir.config), *pairs, *ends]
    text = (
        "train on from its newest checkpoint, with a new optimizer and schedule"
        if from_checkpoint
        else "start in another run_dir"
    )
    try:
        works = parse_silently(arguments)[0] == desired
    except UsageError:
        works = False
    if not works:
        return f"To {text}, add {shlex.join(ends)} to your command"
    return f"To {text}:\n  targetsft train {shlex.join(arguments)}"


def _differences(
    before: Mapping[str, Any], after: Config
) -> dict[str, tuple[Any, Any]]:
    """Key -> stored and new value, where they differ."""
    defaults = dict(_flatten(dataclasses.asdict(Config())))
    old = defaults | dict(_flatten(renamed_tree(before)))
    new = defaults | dict(_flatten(dataclasses.asdict(after)))
    return {
        key: (old.get(key), new.get(key))
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    }


def _settable(tree: Any, key: str) -> tuple[str, Any]:
    """Longest path of a key in the tree, such as lora for lora.rank, and its value."""
    names = key.split(".")
    for number, name in enumerate(names):
        if not isinstance(tree, Mapping) or name not in tree:
            return ".".join(names[:number]), tree
        tree = tree[name]
    return key, tree


def _argument(value: Any) -> str:
    """Text of a value on a command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _free_path(path: str) -> str:
    """Path beside a run directory that does not exist yet."""
    number = 2
    while os.path.lexists(f"{path}-{number}"):
        number += 1
    return f"{path}-{number}"


def _covered(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in sections)


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, Mapping) or not tree:
        yield prefix.rstrip("."), tree
        return
    for name, part in tree.items():
        yield from _flatten(part, f"{prefix}{name}.")
