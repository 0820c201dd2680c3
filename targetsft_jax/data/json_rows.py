"""Decode JSON rows within limits: nesting, digits, unique keys, an object per row."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from targetsft_jax.data.row_error import RowError, Unreadable
from targetsft_jax.storage.json_file import repeated_key

MAX_LINE = 2**26
"""Bytes of a line; a million tokens of text take about 4 MB."""
MAX_DEPTH = 100
"""Levels of nesting."""
MAX_DIGITS = 4300
"""Digits of an integer, the limit of Python; its conversion takes quadratic time."""


class Malformed(Unreadable):
    """Part of a JSON text beyond the limits; it spoils its row even where unused."""


def parse_row(row: bytes | Mapping[str, Any], origin: str) -> Mapping[str, Any]:
    """Parse a JSON line; rows that are parsed already are only checked.

    Raises:
        RowError: not UTF-8, not JSON, or JSON that is not an object; a line, nesting or
            integer beyond the limits above; a key that occurs twice.
    """
    if isinstance(row, bytes):
        row = _parse_line(row, origin)
    if isinstance(row, Malformed):
        raise RowError(origin, row.problem)
    if not isinstance(row, Mapping):
        raise RowError(origin, f"a JSON {type(row).__name__}; expected an object")
    problem = _find_problem(row)
    if problem is not None:
        raise RowError(origin, problem)
    return row


def decode(text: str) -> Any:
    """Decode a JSON text; an integer or an object beyond the limits is `Malformed`.

    Raises:
        json.JSONDecodeError: not JSON.
        RecursionError: nested too deeply for Python.
    """
    return json.loads(text, parse_int=_integer, object_pairs_hook=_object)


def _parse_line(line: bytes, origin: str) -> Any:
    if len(line) > MAX_LINE:
        raise RowError(
            origin,
            f"a line of more than {MAX_LINE >> 20} MiB; expected one row per line",
        )
    try:
        return decode(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(origin, f"not UTF-8: {error}") from error
    except json.JSONDecodeError as error:
        raise RowError(origin, f"not JSON: {error}") from error
    except RecursionError as error:
        raise RowError(origin, _DEPTH) from error


_DEPTH = f"nested more than {MAX_DEPTH} levels deep; expected fewer"


def _integer(digits: str) -> int | Malformed:
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    return Malformed(
        f"an integer of {len(digits):,} digits; expected at most {MAX_DIGITS:,}"
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any] | Malformed:
    content = dict(pairs)
    if len(content) == len(pairs):
        return content
    twice = repeated_key(pairs)
    return Malformed(f"an object with the key {twice!r} twice; expected it once")


def _find_problem(row: Mapping[str, Any]) -> str | None:
    """Problem of a row in words: a `Malformed` value, or too deep nesting."""
    level: list[Iterable[Any]] = [row.values()]
    for _ in range(MAX_DEPTH):
        inner: list[Iterable[Any]] = []
        for values in level:
            for value in values:
                if isinstance(value, dict):
                    inner.append(value.values())
                elif isinstance(value, list):
                    inner.append(value)
                elif isinstance(value, Malformed):
                    return value.problem
        if not inner:
            return None
        level = inner
    return _DEPTH
