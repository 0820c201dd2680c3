"""Load a configuration: YAML, dotted overrides, suggestions for misspelt keys.

    python -m targetsft_jax.train --config configs/quickstart.yaml --target.eta 0.7

Unknown keys, wrong types and impossible combinations raise here, before any data file,
device or model is opened.
"""

import dataclasses
import difflib
import functools
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_type_hints

from targetsft_jax.config.checks import validate
from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.config.shipped import find

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

_TYPE_NAMES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "NoneType": "null",
}


def load(arguments: Sequence[str]) -> Config:
    """Parse and validate the configuration of a command line.

    Args:
        arguments: `--config FILE` and dotted overrides such as `--train.steps 10`.

    Raises:
        ConfigError: a key is unknown, has the wrong type, or cannot be used.
        SystemExit: after `--help` or `--print-config`.
    """
    config = parse(arguments)
    validate(config)
    if "--print-config" in arguments:
        sys.stdout.write(to_yaml(config))
        raise SystemExit(0)
    return config


def parse(arguments: Sequence[str]) -> Config:
    """Parse the configuration of a command line; its values are not validated."""
    import jsonargparse

    parser = _parser()
    # `--resume` is accepted as a flag; jsonargparse requires a value.
    flags = ["--resume=true" if a == "--resume" else a for a in _joined(arguments)]
    flags = _with_config_files(flags)
    try:
        parsed = parser.parse_args([a for a in flags if a != "--print-config"])
        _check_sections(parsed)
        tree = parser.instantiate(parsed)
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        raise ConfigError(_explain(str(error))) from None
    return Config(**{f.name: tree[f.name] for f in dataclasses.fields(Config)})


def to_yaml(config: Config) -> str:
    """Serialize a resolved configuration as YAML that `load` accepts."""
    import yaml

    return yaml.safe_dump(dataclasses.asdict(config), sort_keys=False)


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


@functools.cache
def _parser() -> Any:
    import jsonargparse

    class Parser(jsonargparse.ArgumentParser):
        """Rejects abbreviated keys, in nested sections too."""

        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **{"allow_abbrev": False} | options)

    parser = Parser(
        prog="python -m targetsft_jax.train",
        description="Train a student toward an explicit target distribution.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--config",
        action="config",
        help="YAML file, or the name of a shipped configuration",
    )
    parser.add_class_arguments(Config, None)
    return parser


def _check_sections(parsed: Any) -> None:
    """Reject a scalar in place of a section, which jsonargparse accepts."""
    for name, kind in get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind) and not hasattr(parsed[name], "__dict__"):
            first = dataclasses.fields(kind)[0].name
            raise ValueError(
                f"{name} is {parsed[name]!r}; expected a section with keys such as "
                f"{name}.{first}"
            )


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join `--resume VALUE` into one argument."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--resume" and not argument.startswith("--"):
            joined[-1] = f"--resume={argument}"
        else:
            joined.append(argument)
    return joined


def _with_config_files(arguments: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations by the paths of their files."""
    result = list(arguments)
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            result[index + 1] = str(find(arguments[index + 1]))
        elif argument.startswith("--config="):
            result[index] = f"--config={find(argument.partition('=')[2])}"
    return result


def _paths(section: Any, prefix: str) -> Iterator[str]:
    for name, kind in get_type_hints(section).items():
        yield prefix + name
        parts = [kind, *get_args(kind)]
        nested = next((part for part in parts if dataclasses.is_dataclass(part)), None)
        if nested is not None:
            yield from _paths(nested, f"{prefix}{name}.")


def _explain(message: str) -> str:
    """Rewrite a parser message: the key, and the existing key it resembles."""
    unknown = _unknown_key(message)
    if unknown is None:
        return f"{_wrong_type(message) or message}\nSee --help for all keys."
    for old, new in RENAMED_KEYS.items():
        if unknown == old or unknown.startswith(f"{old}."):
            return f"{unknown} was renamed; use {new}{unknown.removeprefix(old)}"
    if unknown in REMOVED_KEYS:
        return f"{unknown} was removed: {REMOVED_KEYS[unknown]}"
    nearest = _nearest(unknown)
    suggestion = f"\nDid you mean {nearest}?" if nearest else ""
    return f"{message}{suggestion}\nSee --help for all keys."


def _unknown_key(message: str) -> str | None:
    """Extract the dotted path of an unknown key from a parser message, or None."""
    section = re.match(r"Parser key \"([\w.]+)\"", message)
    prefix = f"{section[1]}." if section else ""
    for pattern in (
        r"unrecognized arguments: --([\w.\-]+)",
        r"Group '(?P<group>[\w.]+)' does not accept option '([\w.]+)'",
        r"Option '([\w.]+)' is not accepted",
    ):
        match = re.search(pattern, message)
        if match:
            group = match.groupdict().get("group")
            return (f"{group}." if group else prefix) + match.groups()[-1]
    return None


def _wrong_type(message: str) -> str | None:
    """Rewrite a type error as `KEY is VALUE; expected a TYPE`; None: another error."""
    names = list(dict.fromkeys(re.findall(r"Parser key \"([\w.]+)\"", message)))
    path = ".".join(names)
    section = re.search(r"Unable to load config ['\"](.*)['\"]", message)
    if names and section is not None:
        return f"{path} is {section[1]!r}; expected a section of keys"
    kinds = re.findall(r"Expected an? <class '(?:\w+\.)*(\w+)'>", message)
    value = re.search(r"(?:Got value|Given value): (.*)", message)
    if len(names) > 1:
        # The inner union of an optional section ends in the section's own null.
        kinds = kinds[:-1]
    if not names or not kinds or value is None or not set(kinds) <= _TYPE_NAMES.keys():
        return None
    *others, last = [_TYPE_NAMES[kind] for kind in dict.fromkeys(kinds)]
    words = f"{', '.join(others)} or {last}" if others else last
    return f"{path} is {value[1].strip()!r}; expected {words}"


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
    by_leaf = {key.rpartition(".")[2]: key for key in reversed(known)}
    leaves = difflib.get_close_matches(leaf, by_leaf, 1, 0.8)
    return by_leaf[leaves[0]] if leaves else None
