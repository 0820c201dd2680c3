"""Rows of local files, each with its `file:row`."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from targetsft_jax.data.record import RowError

# A row as read: a line of JSON stays bytes until `parse_row`, so that a bad line ends
# nothing but itself.
Row = bytes | Mapping[str, Any]
# Rows of a table that are Python objects at a time.
_ROWS_AT_A_TIME = 1024
_SHARD = re.compile(r"(?P<stem>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})(?P<kind>\..+)")
KINDS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow")


def read_files(paths: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """Streams the rows of files of any of KINDS, by the end of their names.

    Yields:
        (`file:row`, the row; parse_row makes an object of it).

    Raises:
        ValueError: as the readers below; the name ends in none of KINDS.
    """
    for path in paths:
        if path.endswith((".jsonl", ".jsonl.gz")):
            yield from read_lines(path)
        elif path.endswith((".json", ".json.gz")):
            yield from _read_json(path)
        elif path.endswith(".parquet"):
            yield from read_parquet(path)
        elif path.endswith(".arrow"):
            yield from read_arrow(path)
        else:
            raise ValueError(
                f"{path}: expected a file whose name ends in {', '.join(KINDS)}"
            )


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
    for path in present(paths):
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


def read_parquet(paths: str | Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Streams the rows of Parquet files, nested columns as lists and dicts.

    Yields:
        (`file:row`, from 1; the row).

    Raises:
        ValueError: a file is missing, no Parquet file, or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    for path in present(paths):
        try:
            # Groups of rows are read as they are needed, not the file. Checksums are
            # there if the writer has put them there, and cost next to nothing.
            with pyarrow.parquet.ParquetFile(
                path, pre_buffer=False, page_checksum_verification=True
            ) as file:
                yield from _rows(path, file.iter_batches(_ROWS_AT_A_TIME))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, "Parquet", error) from error


def read_arrow(paths: str | Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Streams the rows of files in Arrow's stream format, memory-mapped.

    Yields, Raises: as `read_parquet`.
    """
    import pyarrow

    for path in present(paths):
        try:
            with (
                pyarrow.memory_map(path) as file,
                pyarrow.ipc.open_stream(file) as rows,
            ):
                yield from _rows(path, rows)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, "Arrow", error) from error


def parse_row(row: Row, origin: str) -> Mapping[str, Any]:
    """A row as an object: what a table gave, or a line of JSON.

    Raises:
        RowError: not UTF-8, not JSON, or JSON that is not an object.
    """
    if isinstance(row, bytes):
        try:
            row = json.loads(row.decode("utf-8-sig"))
        except UnicodeDecodeError as error:
            raise RowError(origin, f"not UTF-8: {error}") from error
        except (json.JSONDecodeError, RecursionError) as error:
            raise RowError(origin, f"not JSON: {error}") from error
    if not isinstance(row, Mapping):
        raise RowError(origin, f"a JSON {type(row).__name__}; expected an object")
    return row


def refuse_half(paths: Iterable[str]) -> None:
    """Raises ValueError where a file `…-00001-of-00003…` lacks one of its fellows."""
    shards: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        found = _SHARD.fullmatch(str(path))
        if found:
            key = (found["stem"], found["shards"], found["kind"])
            shards.setdefault(key, set()).add(int(found["shard"]))
    for (stem, count, kind), have in shards.items():
        lacks = [i for i in range(int(count)) if i not in have]
        if lacks:
            raise ValueError(
                f"{stem}-{lacks[0]:05d}-of-{count}{kind} is missing: {len(have)} of"
                f" {int(count)} files are there; fetch the others"
            )


def present(paths: str | Iterable[str]) -> Iterator[str]:
    """Each path, or ValueError where it is no file."""
    for path in [paths] if isinstance(paths, str) else paths:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; check data.path")
        yield path


def _rows(path: str, batches: Iterable) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        # A stream may have been written in batches of any size.
        for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
            for row in batch.slice(start, _ROWS_AT_A_TIME).to_pylist():
                number += 1
                yield f"{path}:{number}", row


def _read_json(path: str) -> Iterator[tuple[str, Row]]:
    """A list of objects, objects by id (which becomes their `id`), or lines of them."""
    (path,) = present(path)
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            whole = json.loads(file.read().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise ValueError(f"{path}: not JSON: {error}; fetch it again") from error
        yield from read_lines(path)
        return
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}); fetch it again") from error
    if isinstance(whole, dict) and all(isinstance(v, dict) for v in whole.values()):
        whole = [{"id": key, **row} for key, row in whole.items()]
    elif isinstance(whole, dict):
        whole = [whole]  # a single line
    for number, row in enumerate(whole, 1):
        yield f"{path}:{number}", row


def _damaged(path: str, kind: str, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a whole {kind} file ({error}); fetch it again")
