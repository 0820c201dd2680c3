"""YAML in a restricted form: plain data, unique keys, bounded size and depth.

One reader for configurations, comparisons and the files in a run directory. Differences
from YAML 1.1: a key is always text; numbers are decimal (`010` and `1:30` are text),
`1e-3` is a number, dates are text; no tag but `!!str`. Anchors, aliases and merge keys
are expanded up to `NODES`.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from targetsft_jax.storage.text_file import read_text

BYTES, DEPTH, NODES, DIGITS = 2**20, 32, 50_000, 40
"""Limits: file size, nesting, expanded values, digits of a number."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL = re.compile(r"~|null|Null|NULL|")
_TRUE = re.compile(r"true|True|TRUE|yes|Yes|YES|on|On|ON")
_FALSE = re.compile(r"false|False|FALSE|no|No|NO|off|Off|OFF")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)")
_FLOAT = re.compile(
    r"[-+]?([0-9]+(_[0-9]+)*\.[0-9]*([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+"
    r"|\.[0-9]+([eE][-+]?[0-9]+)?)"
)
_INFINITY = re.compile(r"[-+]?\.(inf|Inf|INF)")
_NAN = re.compile(r"\.(nan|NaN|NAN)")
_MERGE = object()


class YamlError(ValueError):
    """Text that is not YAML of the restricted form; names the file and the line."""


def read_mapping(path: Path) -> dict[str, Any]:
    """Mapping in a YAML file.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not a text file of at most `BYTES`, or not one mapping of the
            restricted form; names the file, and the line where there is one.
    """
    value = parse(read_text(path, limit=BYTES), str(path))
    if value is None:
        raise YamlError(f"{path} is empty; expected a mapping of keys")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else "a single value"
        raise YamlError(f"{path} is {kind}; expected a mapping of keys")
    return value


def parse(text: str, where: str) -> Any:
    """Value of a YAML text; None for an empty one.

    Args:
        text: one document.
        where: its file or key, for messages.

    Raises:
        YamlError: names the line, what was found and what is expected.
    """
    # Aliases share values, which nobody changes. Built from events without recursion:
    # PyYAML's constructor expands aliases without a limit and recurses.
    builder = _Builder(where)
    if not text.isascii() and text.encode(errors="replace").decode() != text:
        raise YamlError(f"{where}: characters that UTF-8 lacks; expected UTF-8")
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.add(event)
    except yaml.YAMLError as error:
        raise YamlError(_syntax_error(error, where)) from None
    return builder.root


def scalar(text: str) -> Any:
    """Value of a plain scalar: null, a boolean, a number, or the text itself."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text):
        return True
    if _FALSE.fullmatch(text):
        return False
    if len(text) > DIGITS:
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _INFINITY.fullmatch(text):
        return -math.inf if text[0] == "-" else math.inf
    return math.nan if _NAN.fullmatch(text) else text


def dump(tree: Any) -> str:
    """Write plain data as YAML that `parse` reads back as the same values."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that `scalar` would take for numbers, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


@dataclass
class _Open:
    """A mapping or list under construction.

    Attributes:
        value: its items so far.
        line: line of its first character, from 1.
        anchor: name of its anchor.
        key: key of the next value, or `_MERGE`; None: a key follows.
        merged: values of merge keys, in order.
        nodes: expanded values in it.
    """

    value: Any
    line: int
    anchor: str | None
    key: Any = None
    merged: list[Any] = field(default_factory=list)
    nodes: int = 1


class _Builder:
    """Values from the events of a document."""

    def __init__(self, where: str) -> None:
        self.root: Any = None
        self._where = where
        self._documents = 0
        self._open: list[_Open] = []
        # Name -> value and number of its expanded values; None: under construction.
        self._anchors: dict[str, tuple[Any, int] | None] = {}

    def add(self, event: yaml.Event) -> None:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                raise self._error(line, "a second document", "one document")
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._begin(event, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self._end()
        elif isinstance(event, yaml.ScalarEvent):
            self._scalar(event, line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, line)

    def _begin(self, event: Any, line: int) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        self._check_tag(event.tag, "map" if is_mapping else "seq", line)
        if len(self._open) == DEPTH:
            raise self._error(
                line, f"more than {DEPTH} nested levels", "a flatter file"
            )
        if self._expects_key():
            raise self._error(line, "a list or mapping as a key", "text")
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        self._open.append(_Open({} if is_mapping else [], line, event.anchor))

    def _end(self) -> None:
        done = self._open.pop()
        for source in done.merged:
            done.value = {**source, **done.value}
        self._value(done.value, done.nodes, done.line, done.anchor)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> None:
        self._check_tag(event.tag, "str", line)
        if self._expects_key():
            self._key(event, line)
            return
        plain = event.implicit[0] and event.tag is None
        value = scalar(event.value) if plain else event.value
        self._value(value, 1, line, event.anchor)

    def _key(self, event: yaml.ScalarEvent, line: int) -> None:
        mapping, name = self._open[-1], event.value
        if event.anchor is not None:
            self._anchors[event.anchor] = name, 1
        if name == "<<" and event.implicit[0]:
            mapping.key = _MERGE
            return
        if name in mapping.value:
            raise self._error(
                line,
                f"key {name[:60]!r} for the second time in one mapping (it begins in "
                f"line {mapping.line})",
                "each key once; merge the two",
            )
        mapping.key = name

    def _alias(self, name: str, line: int) -> None:
        if name not in self._anchors:
            raise self._error(line, f"alias *{name} of no anchor", "an earlier &anchor")
        target = self._anchors[name]
        if target is None:
            raise self._error(line, f"alias *{name} inside of itself", "no recursion")
        if self._expects_key():
            raise self._error(line, f"alias *{name} as a key", "text")
        self._value(*target, line, None)

    def _value(self, value: Any, nodes: int, line: int, anchor: str | None) -> None:
        """Add a complete value to the mapping or list around it."""
        if anchor is not None:
            self._anchors[anchor] = value, nodes
        if not self._open:
            self.root = value
            return
        parent = self._open[-1]
        parent.nodes += nodes
        if parent.nodes > NODES:
            found = f"more than {NODES:,} values, with aliases expanded"
            raise self._error(line, found, "a smaller file")
        if isinstance(parent.value, list):
            parent.value.append(value)
            return
        key, parent.key = parent.key, None
        if key is _MERGE:
            parent.merged += self._merge_sources(value, line)
        else:
            parent.value[key] = value

    def _merge_sources(self, value: Any, line: int) -> Iterator[dict]:
        sources = value if isinstance(value, list) else [value]
        if not all(isinstance(source, dict) for source in sources):
            raise self._error(line, "a merge key << without a mapping", "a mapping")
        yield from sources

    def _expects_key(self) -> bool:
        if not self._open:
            return False
        return isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _check_tag(self, tag: str | None, kind: str, line: int) -> None:
        if tag not in (None, "!", f"tag:yaml.org,2002:{kind}"):
            raise self._error(line, f"tag {tag}", "plain values without tags")

    def _error(self, line: int, found: str, expected: str) -> YamlError:
        return YamlError(f"{self._where}, line {line}: {found}; expected {expected}")


def _syntax_error(error: yaml.YAMLError, where: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = f", line {mark.line + 1}" if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    reason = " ".join(str(problem or error).split())[:120]
    return f"{where}{line}: not YAML ({reason}); expected `key: value` lines"
