"""Typed sections from plain values, by the annotations of their keys."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any

from targetsft_jax.config.schema import ConfigError
from targetsft_jax.keys import shown, shown_name
from targetsft_jax.storage import yaml_file

Tree = dict[str, Any]
"""Key -> typed value; a nested section is again a tree."""

_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    list: "a list",
    dict: "a mapping",
    types.NoneType: "null",
}


class UnknownKey(ConfigError):
    """A key that no section declares; the attribute `path` is its dotted path."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{shown_name(path)} is not a key")
        self.path = path


def merge(section: type, tree: Tree, new: Mapping[str, Any], prefix: str = "") -> Tree:
    """Tree with the values of a mapping, such as a file, over earlier ones.

    Args:
        section: declaration of the keys.
        tree: earlier values; not changed.
        new: key -> plain value; nested sections are merged key by key.
        prefix: dotted path of the section with a final dot; empty for the root.

    Raises:
        UnknownKey: a key that the section does not declare.
        ConfigError: a value of another type than its key's.
    """
    hints = typing.get_type_hints(section)
    result = dict(tree)
    for name, value in new.items():
        path = f"{prefix}{name}"
        if name not in hints:
            raise UnknownKey(path)
        nested = nested_section(hints[name])
        if nested is not None and isinstance(value, Mapping):
            earlier = result.get(name) or {}
            result[name] = merge(nested, earlier, value, f"{path}.")
        else:
            result[name] = _converted(value, hints[name], path)
    return result


def override(section: type, tree: Tree, path: str, text: str) -> Tree:
    """Tree with the value of a command-line override, such as train.steps and "10".

    A key of texts takes the text literally; null, numbers, lists and mappings are read
    as YAML where the key's type includes them.

    Raises:
        UnknownKey, ConfigError: as `merge`.
    """
    new: Any = None
    kind: Any = section
    names = path.split(".")
    for number, name in enumerate(names):
        if typing.get_origin(kind) is dict and number:
            # An item of a mapping: the rest of the path is its key.
            earlier = _at(tree, names[:number])
            items = dict(earlier) if isinstance(earlier, dict) else {}
            new = items | {".".join(names[number:]): _read(text, Any, path)}
            names = names[:number]
            break
        if not dataclasses.is_dataclass(kind):
            raise UnknownKey(path)
        hints = typing.get_type_hints(kind)
        if name not in hints:
            raise UnknownKey(path)
        nested = nested_section(hints[name])
        kind = nested or _mapping(hints[name]) or hints[name]
        if number == len(names) - 1:
            new = _read(text, hints[name], path)
    for name in reversed(names):
        new = {name: new}
    return merge(section, tree, new)


def build(section: type, tree: Tree) -> Any:
    """Instance of a section; absent keys have their defaults."""
    hints = typing.get_type_hints(section)
    values = {}
    for name, value in tree.items():
        nested = nested_section(hints[name])
        is_tree = nested is not None and isinstance(value, dict)
        values[name] = build(nested, value) if nested and is_tree else value
    return section(**values)


def nested_section(kind: Any) -> type | None:
    """Section of an annotation, such as `LoraConfig | None`; None for other kinds."""
    for part in _members(kind):
        if isinstance(part, type) and dataclasses.is_dataclass(part):
            return part
    return None


def words(kind: Any, path: str = "") -> str:
    """Annotation of the key at a path in words, such as "a whole number or null"."""
    names = []
    for part in sorted(_members(kind), key=_rank):
        if dataclasses.is_dataclass(part):
            first = dataclasses.fields(part)[0].name
            names.append(f"a section with keys such as {path}.{first}")
        elif part is not Any:
            names.append(_NAMES[typing.get_origin(part) or part])
    *others, last = dict.fromkeys(names or ["a value"])
    return f"{', '.join(others)} or {last}" if others else last


def _rank(kind: Any) -> int:
    """Order of a type in words: mappings after simple values, null last."""
    return 2 if kind is types.NoneType else typing.get_origin(kind) is dict


def _members(kind: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    return typing.get_args(kind) if is_union else (kind,)


def _mapping(kind: Any) -> Any:
    parts = (part for part in _members(kind) if typing.get_origin(part) is dict)
    return next(parts, None)


def _at(tree: Tree, names: list[str]) -> Any:
    value: Any = tree
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _read(text: str, kind: Any, path: str) -> Any:
    """Plain value of a command-line text for a key of this type."""
    members = _members(kind)
    if not text.strip():
        return text
    if yaml_file.scalar(text) is None:
        # The word null is no text, also where null is refused.
        return None
    try:
        value = yaml_file.parse(text, f"--{path}")
    except yaml_file.YamlError as error:
        if str not in members and text.lstrip()[0] in "[{":
            raise ConfigError(str(error)) from None
        return text
    if any(_fits(value, part, path) for part in members if part is not str):
        return value
    # The text as it was written, as the value of the key or in the error.
    return value if str not in members and isinstance(value, list | dict) else text


def _fits(value: Any, kind: Any, path: str) -> bool:
    try:
        _converted(value, kind, path)
    except ConfigError:
        return False
    return True


def _converted(value: Any, kind: Any, path: str) -> Any:
    """Value in the type of its key.

    Raises:
        ConfigError: `KEY is VALUE; expected TYPE`, for a nested value with its path.
    """
    inner: ConfigError | None = None
    for part in _members(kind):
        try:
            return _as(value, part, path)
        except _Mismatch:
            continue
        except ConfigError as error:
            inner = error
    raise inner or ConfigError(
        f"{path} is {shown(value)}; expected {words(kind, path)}"
    )


class _Mismatch(Exception):
    """A value of another type."""


def _as(value: Any, kind: Any, path: str) -> Any:
    """Value in one type; a whole float is an int, and an int is a float.

    Raises:
        _Mismatch: a value of another type.
        ConfigError: an item of another type.
    """
    origin = typing.get_origin(kind) or kind
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        assert isinstance(kind, type)
        return build(kind, merge(kind, {}, value, f"{path}."))
    if origin is list and isinstance(value, list):
        (item,) = typing.get_args(kind)
        return [_converted(v, item, f"{path}[{n}]") for n, v in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        item = typing.get_args(kind)[1]
        return {k: _converted(v, item, f"{path}.{k}") for k, v in value.items()}
    if kind is float and type(value) in (int, float):
        return float(value)
    if kind is int and type(value) is float and value.is_integer():
        return int(value)
    if isinstance(origin, type) and type(value) is origin and origin in _SCALARS:
        return value
    raise _Mismatch


_SCALARS = (int, bool, str, types.NoneType)
