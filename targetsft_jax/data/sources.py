"""Lines of local files, each with its `file:line`."""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from targetsft_jax.data.record import RowError


def read_lines(paths: str | Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Streams the lines of `.jsonl` and `.jsonl.gz` files that are not blank.

    Args:
        paths: one file or several, read in order.

    Yields:
        (`file:line`, the line's bytes).

    Raises:
        ValueError: a file is missing, or its compression is damaged. That ends the
            stream whatever is done about bad rows: what follows cannot be known.
    """
    for path in [paths] if isinstance(paths, str) else paths:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; check data.path")
        number = 0
        try:
            with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}:{number}", line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is damaged after line {number} ({error});"
                " fetch the file again"
            ) from error


def parse_row(line: bytes, origin: str) -> dict[str, Any]:
    """One line of JSON as a row.

    Raises:
        RowError: not UTF-8, not JSON, or JSON that is not an object.
    """
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RowError(origin, f"not UTF-8: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise RowError(origin, f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise RowError(origin, f"a JSON {type(row).__name__}; expected an object")
    return row
