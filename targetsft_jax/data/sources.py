"""Read rows of local files, each with its `file:row`."""

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from targetsft_jax.data.record import RowError

# A JSON line stays bytes until `parse_row`, so that a malformed one is a bad row and
# does not end the stream.
Row = bytes | Mapping[str, Any]
# Table rows converted to Python objects per batch.
_ROWS_AT_A_TIME = 1024
_SHARD = re.compile(r"(?P<stem>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})(?P<kind>\..+)")
KINDS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow")


def read_files(paths: Iterable[str]) -> Iterator[tuple[str, Row]]:
    """Stream the rows of files of any of KINDS, by the extensions of their names.

    Yields:
        (`file:row`, the row for `parse_row`).

    Raises:
        ValueError: as the readers below; an extension not in KINDS.
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
    """Stream the non-blank lines of `.jsonl` and `.jsonl.gz` files.

    Args:
        paths: one file or several, read in order.

    Yields:
        (`file:line`, the line's bytes).

    Raises:
        ValueError: a file is missing, or its compression is damaged. This ends the
            stream even if bad rows are skipped, since the rest cannot be counted.
    """
    for path in existing_files(paths):
        number = 0
        try:
            with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        yield f"{path}:{number}", line
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is damaged after line {number} ({error});"
                " download the file again"
            ) from error


def read_parquet(paths: str | Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the rows of Parquet files, nested columns as lists and dicts.

    Yields:
        (`file:row` from 1, the row).

    Raises:
        ValueError: a file is missing, not a Parquet file, or damaged.
    """
    import pyarrow
    import pyarrow.parquet

    for path in existing_files(paths):
        try:
            # Row groups are read on demand. Page checksums, if the file has them, cost
            # next to nothing to verify.
            with pyarrow.parquet.ParquetFile(
                path, pre_buffer=False, page_checksum_verification=True
            ) as file:
                yield from _rows(path, file.iter_batches(_ROWS_AT_A_TIME))
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, "Parquet", error) from error


def read_arrow(paths: str | Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Stream the rows of files in Arrow's stream format, memory-mapped.

    Yields, Raises: as `read_parquet`.
    """
    import pyarrow

    for path in existing_files(paths):
        try:
            with (
                pyarrow.memory_map(path) as file,
                pyarrow.ipc.open_stream(file) as rows,
            ):
                yield from _rows(path, rows)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            raise _damaged(path, "Arrow", error) from error


def parse_row(row: Row, origin: str) -> Mapping[str, Any]:
    """Parse a JSON line; table rows are returned unchanged.

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


def refuse_missing_shards(paths: Iterable[str]) -> None:
    """Raise ValueError if `paths` lacks a shard that `…-00001-of-00003…` implies."""
    shards: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        match = _SHARD.fullmatch(str(path))
        if match:
            key = (match["stem"], match["shards"], match["kind"])
            shards.setdefault(key, set()).add(int(match["shard"]))
    for (stem, count, kind), numbers in shards.items():
        missing = [i for i in range(int(count)) if i not in numbers]
        if missing:
            raise ValueError(
                f"{stem}-{missing[0]:05d}-of-{count}{kind} is missing: {len(numbers)}"
                f" of {int(count)} files exist; download the others"
            )


def existing_files(paths: str | Iterable[str]) -> Iterator[str]:
    """Yield each path; raise ValueError if it is not a file."""
    for path in [paths] if isinstance(paths, str) else paths:
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file; check data.path")
        yield path


def _rows(path: str, batches: Iterable[Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in batches:
        # Batches of a stream have any size.
        for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
            for row in batch.slice(start, _ROWS_AT_A_TIME).to_pylist():
                number += 1
                yield f"{path}:{number}", row


def _read_json(path: str) -> Iterator[tuple[str, Row]]:
    """Rows of a JSON file: a list of objects, an object id -> object, or JSON lines."""
    (path,) = existing_files(path)
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            content = json.loads(file.read().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise ValueError(f"{path}: not JSON: {error}; download it again") from error
        yield from read_lines(path)
        return
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}); download it again") from error
    if isinstance(content, dict) and all(isinstance(v, dict) for v in content.values()):
        content = [{"id": key, **row} for key, row in content.items()]
    elif isinstance(content, dict):
        content = [content]  # A single line.
    for number, row in enumerate(content, 1):
        yield f"{path}:{number}", row


def _damaged(path: str, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path}: not a complete {kind} file ({error}); download it again"
    )
