"""JSON objects of files that others wrote: unique keys, bounded size and depth."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from targetsft_jax.storage.text_file import read_text

BYTES, DEPTH, DIGITS = 64 * 2**20, 64, 40
"""Limits: file size, nesting, digits of an integer."""


def read_object(path: Path) -> dict[str, Any]:
    """JSON object in a file.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not a text file of at most `BYTES`, not JSON, or not an
            object; names the file.
    """
    document = parse(read_text(path, limit=BYTES), str(path))
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a JSON object; expected {{…}}")
    return document


def parse(text: str | bytes, where: str) -> Any:
    """Value of a JSON text; NaN and Infinity become floats.

    Args:
        text: one document.
        where: its file, for messages.

    Raises:
        ValueError: not JSON, a key twice in one object, deeper than `DEPTH`, or an
            integer of more than `DIGITS` digits.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
        too_deep = _is_deeper(value, DEPTH)
    except RecursionError:
        too_deep = True
    except ValueError as error:
        raise ValueError(f"{where} is not JSON ({error})") from None
    if too_deep:
        raise ValueError(f"{where} has more than {DEPTH} nested levels; expected fewer")
    return value


def repeated_key(pairs: Iterable[tuple[str, Any]]) -> str:
    """First key that occurs a second time; there must be one."""
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            return name
        seen.add(name)
    raise ValueError("no key occurs twice")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError(f"key {repeated_key(pairs)[:60]!r} twice in one object")
    return result


def _integer(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"an integer of {len(text):,} digits")
    return int(text)


def _is_deeper(value: Any, depth: int) -> bool:
    """True if a value has more nested levels; without recursion."""
    level = [value]
    for _ in range(depth):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return any(isinstance(value, dict | list) for value in level)
