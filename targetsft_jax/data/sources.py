"""Read rows of local files, each with its `file:row`, in bounded memory."""

import gzip
import io
import json
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from targetsft_jax.data import table_rows
from targetsft_jax.data.json_list import NotAList, items
from targetsft_jax.data.json_rows import MAX_LINE, decode
from targetsft_jax.data.table_rows import Select, all_columns

# A JSON line stays bytes until `parse_row`, so that a malformed one is a bad row and
# does not end the stream.
Row = bytes | Mapping[str, Any]
_SHARD = re.compile(r"(?P<stem>.+)-(?P<shard>\d{5})-of-(?P<shards>\d{5})(?P<kind>\..+)")
KINDS = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".arrow")
# Bytes of a JSON object by id, which is read at once.
_MAX_DOCUMENT = 2**31
# Text is compressed to a fifth. More than this, beyond the first bytes, is no text but
# an attempt to fill memory or time: gzip reaches 1,032.
_MAX_RATIO, _RATIO_FROM = 200, 2**26
_CHUNK = 2**20
# First bytes of files that are not JSON lines.
_FORMATS = {
    b"\x1f\x8b": "gzip; expected a name that ends in .gz",
    b"\x28\xb5\x2f\xfd": "Zstandard; expected plain text or gzip: decompress it",
    b"BZh": "bzip2; expected plain text or gzip: decompress it",
    b"\xfd7zXZ": "xz; expected plain text or gzip: decompress it",
    b"PK\x03\x04": "a zip archive; expected plain text or gzip: unpack it",
    b"PAR1": "Parquet; expected a name that ends in .parquet, or data.source parquet",
}


def read_files(
    paths: Iterable[str], select: Select = all_columns, *, of: str = "files"
) -> Iterator[tuple[str, Row]]:
    """Stream the rows of files of any of KINDS, by the extensions of their names.

    Args:
        paths: the files, in order.
        select: columns to read of a table; JSON rows are always complete.
        of: `jsonl` or `parquet` for files of that kind under any name; a name in .json
            may hold a list.

    Yields:
        (`file:row`, the row for `json_rows.parse_row`).

    Raises:
        ValueError: as the readers below; an extension not in KINDS.
    """
    for path in paths:
        is_json = path.endswith((".json", ".json.gz"))
        if of == "jsonl" and not (is_json and _starts_a_list(path)):
            yield from read_lines(path)
        elif is_json:
            yield from _read_json(path)
        elif path.endswith((".jsonl", ".jsonl.gz")) and of != "parquet":
            yield from read_lines(path)
        elif of == "parquet" or path.endswith(".parquet"):
            yield from read_parquet(path, select)
        elif path.endswith(".arrow"):
            yield from read_arrow(path, select)
        else:
            raise ValueError(
                f"{path}: expected a file whose name ends in {', '.join(KINDS)}"
            )


def read_lines(paths: str | Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """Stream the non-blank lines of `.jsonl` and `.jsonl.gz` files.

    Args:
        paths: one file or several, read in order.

    Yields:
        (`file:line`, the line's bytes). A line of more than MAX_LINE bytes is cut one
        byte after them, so that `parse_row` refuses it.

    Raises:
        ValueError: a file is missing or of another format, its compression is damaged,
            or it expands to far more than text does. This ends the stream even if bad
            rows are skipped, since the rest cannot be counted.
    """
    for path in list(existing_files(paths)):
        number = 0
        try:
            with open(path, "rb") as raw:
                content = _Content(path, raw)
                while line := content.file.readline(MAX_LINE + 1):
                    number += 1
                    content.count(line)
                    if line.strip():
                        yield f"{path}:{number}", line
                    if len(line) > MAX_LINE and not line.endswith(b"\n"):
                        del line  # Its memory is needed no more.
                        content.skip_line()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: the gzip stream is damaged after line {number} ({error});"
                " download the file again"
            ) from error


def read_parquet(
    paths: str | Iterable[str], select: Select = all_columns
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Stream the rows of Parquet files; see `table_rows.read_parquet`.

    Yields:
        (`file:row` from 1, the row).

    Raises:
        ValueError: a file is missing, not a Parquet file, or damaged.
    """
    for path in list(existing_files(paths)):
        yield from _numbered(path, table_rows.read_parquet(path, select))


def read_arrow(
    paths: str | Iterable[str], select: Select = all_columns
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Stream the rows of files in Arrow's stream format; see `table_rows.read_arrow`.

    Yields, Raises: as `read_parquet`.
    """
    for path in list(existing_files(paths)):
        yield from _numbered(path, table_rows.read_arrow(path, select))


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
        # A pipe would never end, and is empty when it is read again.
        if not Path(path).is_file():
            raise ValueError(f"{path}: {_other_than_a_file(path)}; check data.path")
        yield path


def _other_than_a_file(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return "no such file"
    if stat.S_ISDIR(mode):
        return "a folder; expected a file"
    return "a pipe or a device; expected a regular file"


class _Content:
    """Decompressed bytes of a file, with a limit on their ratio to the compressed.

    Attributes:
        file: the bytes.
    """

    def __init__(self, path: str, raw: BinaryIO):
        self._path, self._raw = path, raw
        self._size, self._next_check = 0, _RATIO_FROM
        self.file = raw
        if path.endswith(".gz"):
            stream: Any = gzip.GzipFile(fileobj=raw)
            self.file = io.BufferedReader(stream, _CHUNK)
            return
        start = raw.read(8)
        raw.seek(0)
        for magic, kind in _FORMATS.items():
            if start.startswith(magic):
                raise ValueError(f"{path}: the file is {kind}")

    def count(self, part: bytes) -> None:
        """Count bytes that were read.

        Raises:
            ValueError: the file expands to far more than text does.
        """
        self._size += len(part)
        if self._size < self._next_check:
            return
        self._next_check = self._size + _CHUNK
        if self._size > _MAX_RATIO * self._raw.tell():
            raise ValueError(
                f"{self._path}: {self._raw.tell():,} bytes expand to more than"
                f" {self._size:,}; expected at most {_MAX_RATIO} times as many in a"
                " file of text"
            )

    def skip_line(self) -> None:
        """Read to the end of the line."""
        while part := self.file.readline(_CHUNK):
            self.count(part)
            if part.endswith(b"\n"):
                return

    def part(self) -> bytes:
        """Next bytes; empty at the end of the file."""
        part = self.file.read(_CHUNK)
        self.count(part)
        return part

    def read(self) -> bytes:
        """All bytes.

        Raises:
            ValueError: more than _MAX_DOCUMENT.
        """
        parts = []
        while part := self.part():
            parts.append(part)
            if self._size > _MAX_DOCUMENT:
                raise ValueError(
                    f"{self._path}: a JSON document of more than"
                    f" {_MAX_DOCUMENT >> 30} GiB; expected JSON lines, in a file whose"
                    " name ends in .jsonl"
                )
        return b"".join(parts)


def _numbered(
    path: str, rows: Iterable[Mapping[str, Any]]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", row


def _read_json(path: str) -> Iterator[tuple[str, Row]]:
    """Rows of a JSON file: a list of objects, an object id -> object, or JSON lines.

    A list and lines are streamed; an object by id is read at once.
    """
    (path,) = existing_files(path)
    number = 0
    try:
        if _starts_a_list(path):
            with open(path, "rb") as raw:
                content = _Content(path, raw)
                for number, item in enumerate(items(content.part), 1):
                    yield f"{path}:{number}", item
        elif _has_lines(path):
            yield from read_lines(path)
        else:
            with open(path, "rb") as raw:
                document = decode(_Content(path, raw).read().decode("utf-8-sig"))
            yield from _by_id(path, document)
    except (NotAList, json.JSONDecodeError) as error:
        rows = f" after row {number:,}" if number else ""
        raise ValueError(
            f"{path}: not JSON{rows}: {error}; download it again"
        ) from error
    except RecursionError as error:
        raise ValueError(
            f"{path}: nested too deeply; expected a list of rows"
        ) from error
    except (UnicodeDecodeError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: damaged ({error}); download it again") from error


def _starts_a_list(path: str) -> bool:
    with open(path, "rb") as raw:
        content = _Content(path, raw)
        while part := content.part():
            if part := part.lstrip(b"\xef\xbb\xbf \t\r\n"):
                return part.startswith(b"[")
    return False


def _has_lines(path: str) -> bool:
    """True if the first line is JSON, and another line follows."""
    with open(path, "rb") as raw:
        content = _Content(path, raw)
        line = b""
        while not line.strip():
            line = content.file.readline(MAX_LINE)
            content.count(line)
            if not line:
                return False
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            return False
        while part := content.part():
            if part.strip():
                return True
    return False


def _by_id(path: str, document: Any) -> Iterator[tuple[str, Row]]:
    rows = [document]  # A single line.
    if isinstance(document, dict) and document:
        if all(isinstance(value, dict) for value in document.values()):
            rows = [{"id": key, **row} for key, row in document.items()]
    for number, row in enumerate(rows, 1):
        yield f"{path}:{number}", row
