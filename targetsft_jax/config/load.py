"""Load a configuration: YAML, dotted overrides, suggestions for misspelt keys.

    python -m targetsft_jax.train --config configs/quickstart.yaml --target.eta 0.7

Unknown keys, wrong types and impossible combinations raise here, before any data file,
device or model is opened.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from targetsft_jax.command import UsageError
from targetsft_jax.config.checks import validate
from targetsft_jax.config.help import TRAIN
from targetsft_jax.config.method_switch import MethodSwitch
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.config.shipped import find, names
from targetsft_jax.config.tree import Tree, UnknownKey, build, merge, override
from targetsft_jax.keys import shown, shown_name
from targetsft_jax.storage import yaml_file

RENAMED_KEYS: Mapping[str, str] = {
    "train.micro_batches": "train.accumulation_steps",
    "train.keep_checkpoints": "train.max_to_keep",
    "data.embedded": "data.synthetic",
    "validation.data.embedded": "validation.data.synthetic",
    "evaluation.data.embedded": "evaluation.data.synthetic",
}
"""Old key or section -> current name."""

REMOVED_KEYS: Mapping[str, str] = {
    "compare": "a run trains one method; train several side by side with "
    "`python -m targetsft_jax.compare --config configs/compare/quickstart.yaml`",
}
"""Removed key -> replacement, as shown in the error."""

_RENAMED_VALUES = {("source", "embedded"): "synthetic"}


def load(arguments: Sequence[str]) -> Config:
    """Parse and validate the configuration of a command line.

    Args:
        arguments: `--config FILE` and dotted overrides such as `--train.steps 10`.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or cannot be used.
        SystemExit: after `--help` or `--print-config`.
    """
    config = parse(arguments)
    if not any(map(_prints_config, arguments)):
        validate(config)
        return config
    validate(config, complete=False)
    sys.stdout.write(to_yaml(config))
    raise SystemExit(0)


def parse(arguments: Sequence[str]) -> Config:
    """Parse the configuration of a command line; its values are not validated.

    Later arguments take precedence; of a section, only the specified keys change. Keys
    of a file that a method of the command line lacks are left out, which is reported
    on standard error.

    Raises:
        ConfigError: a file cannot be read, or a key is unknown or has the wrong type.
        SystemExit: after `--help`.
    """
    config, left_out = parse_silently(arguments)
    if left_out:
        sys.stderr.write(f"{left_out}\n")
    return config


def parse_silently(arguments: Sequence[str]) -> tuple[Config, str]:
    """`parse`, with the message about keys that are left out as a result."""
    tree: Tree = {}
    switch = MethodSwitch()
    for key, value in key_values(arguments, TRAIN.text, ("resume",), bare="config"):
        try:
            if key == "config":
                file = _read_file(value)
                tree = merge(Config, tree, file)
                switch.read_file(file)
            else:
                tree = override(Config, tree, key, value)
                switch.read_argument(key)
        except UnknownKey as error:
            raise ConfigError(_explain(error.path)) from None
    tree, left_out = switch.apply(tree)
    return build(Config, tree), left_out


def to_yaml(config: Config) -> str:
    """Serialize a resolved configuration as YAML that `load` accepts."""
    return yaml_file.dump(dataclasses.asdict(config))


def changed_keys(config: Any, default: Any = None) -> dict[str, Any]:
    """Tree of the keys of a section that differ from their defaults.

    Args:
        config: a section.
        default: section to compare with; None: the defaults.
    """
    default = type(config)() if default is None else default
    changed: dict[str, Any] = {}
    for name, value in vars(config).items():
        if name not in get_type_hints(type(config)) or value == getattr(default, name):
            continue
        changed[name] = value
        if dataclasses.is_dataclass(value):
            changed[name] = changed_keys(value, getattr(default, name))
        elif isinstance(value, list):
            changed[name] = [
                changed_keys(item) if dataclasses.is_dataclass(item) else item
                for item in value
            ]
    return changed


def keys() -> list[str]:
    """Return the dotted paths of all keys, such as `train.steps`."""
    return list(_paths(Config, ""))


def renamed_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the old keys of a configuration tree and drop removed ones."""

    def renamed(tree: Any, prefix: str) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        result = {}
        for name, part in tree.items():
            path = f"{prefix}{name}"
            if path in REMOVED_KEYS:
                continue
            new = RENAMED_KEYS.get(path, path).rpartition(".")[2]
            if isinstance(part, str):
                part = _RENAMED_VALUES.get((name, part), part)
            result[new] = renamed(part, f"{path}.")
        return result

    return renamed(tree, "")


def key_values(
    arguments: Sequence[str],
    help: Callable[[str | None], str],
    flags: Collection[str] = (),
    *,
    bare: str,
) -> Iterator[tuple[str, str]]:
    """Keys and texts of a command line: `--KEY VALUE` or `--KEY=VALUE`.

    Args:
        arguments: the command line.
        help: text of `--help`, of a topic if one follows.
        flags: keys that are true without a value.
        bare: key that a file name without a key probably belongs to, for the error.

    Raises:
        ConfigError: an argument that is not a key, or a key without a value.
        SystemExit: after `--help`.
    """
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        if argument == "-h" or (argument.startswith("--") and key == "help"):
            topic = value or (rest[0].removeprefix("--") if rest else None)
            sys.stdout.write(help(topic))
            raise SystemExit(0)
        if _prints_config(argument):
            continue
        if not argument.startswith("--") or not key:
            raise ConfigError(
                f"{shown(argument)} is not a key; expected --KEY VALUE"
                + (f", such as --{bare} {argument}" if _is_file(argument) else "")
            )
        has_next = bool(rest) and not rest[0].startswith("--")
        if not equals and has_next:
            value = rest.pop(0)
        elif not equals and key in flags:
            value = "true"
        elif not equals:
            raise ConfigError(f"--{key} has no value; expected --{key} VALUE")
        yield key, value


def _prints_config(argument: str) -> bool:
    """True for `--print-config`, also in the spelling of keys."""
    return argument in ("--print-config", "--print_config")


def _is_file(argument: str) -> bool:
    """True for the name of an existing or a shipped file, and for any YAML file."""
    is_yaml = argument.endswith((".yaml", ".yml"))
    known = is_yaml or argument in names() or os.path.exists(argument)
    return known and argument.isprintable()


def _read_file(name: str) -> Mapping[str, Any]:
    """Mapping in a configuration file, a path or the name of a shipped one."""
    try:
        return yaml_file.read_mapping(find(name))
    except UsageError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {error}") from None


def _paths(section: Any, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(section).items():
        yield prefix + name
        parts = [kind, *get_args(kind)]
        nested = next((part for part in parts if dataclasses.is_dataclass(part)), None)
        if nested is not None:
            yield from _paths(nested, f"{prefix}{name}.")


def _explain(unknown: str) -> str:
    """Error for an unknown key: its new name, or the existing key it resembles."""
    for old, new in RENAMED_KEYS.items():
        if unknown == old or unknown.startswith(f"{old}."):
            return f"{unknown} was renamed; use {new}{unknown.removeprefix(old)}"
    if unknown in REMOVED_KEYS:
        return f"{unknown} was removed: {REMOVED_KEYS[unknown]}"
    nearest = _nearest(unknown[:100])
    suggestion = f"\nDid you mean {nearest}?" if nearest else ""
    return (
        f"{shown_name(unknown)} is not a key{suggestion}\nSee --help all for all keys."
    )


def _nearest(unknown: str) -> str | None:
    """Return the existing key closest to an unknown one, same section first."""
    known = keys()
    section, _, leaf = unknown.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == section]
    in_section = difflib.get_close_matches(unknown, siblings, 1, 0.6)
    if in_section:
        return in_section[0]
    close = difflib.get_close_matches(unknown, known, 1, 0.8)
    if close:
        return close[0]
    # The key nearest to the root has precedence, then the first one.
    deepest_first = sorted(reversed(known), key=lambda key: -key.count("."))
    by_leaf = {key.rpartition(".")[2]: key for key in deepest_first}
    leaves = difflib.get_close_matches(leaf, by_leaf, 1, 0.8)
    return by_leaf[leaves[0]] if leaves else None
