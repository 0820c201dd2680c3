"""JSON Lines logs: one JSON object per line, append-only, tolerant of damage.

Damage costs one line only: a truncated line of a killed writer, or a line that does not
decode.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from targetsft_jax.storage import atomic


def read(path: Path) -> list[dict[str, Any]]:
    """The objects of a file in order; damaged lines are skipped.

    Empty if the file does not exist.
    """
    return [row for _, row in _lines(path)]


def truncate_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove, atomically, the rows of later steps and the damaged lines.

    Rows without an integer `step` count as damaged. The bytes of remaining lines do not
    change, and a file without lines to remove is not written.

    Args:
        path: the file; it need not exist.
        step: the last step that remains.

    Returns:
        The removed rows of later steps.
    """
    if not path.exists():
        return []
    rows = [
        (line, row) for line, row in _lines(path) if isinstance(row.get("step"), int)
    ]
    text = "".join(line + "\n" for line, row in rows if row["step"] <= step)
    if text.encode() != path.read_bytes():
        atomic.write_text(path, text)
    return [row for _, row in rows if row["step"] > step]


class Writer:
    """Unbuffered writer: a row is in the file when `append` returns.

    A row that could not be written, as on a full disk, is written first by the next
    `append`: no row is lost or duplicated after an OSError.

    Args:
        path: the file; created if it does not exist.
    """

    def __init__(self, path: Path):
        # Unbuffered: a buffer would lose or truncate rows that are larger than itself.
        self._file = path.open("ab", buffering=0)
        self._pending = bytearray()
        if not _ends_a_line(path):
            self._pending += b"\n"

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one object; non-finite floats, which JSON lacks, become null.

        Raises:
            OSError: the row is not written yet.
        """
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)
        self._pending += text.encode("utf-8", "backslashreplace") + b"\n"
        self._write()

    def close(self) -> None:
        """Write pending rows and close the file.

        Raises:
            OSError: rows could not be written.
        """
        try:
            if self._pending.strip():
                self._write()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the file."""
        self.close()

    def _write(self) -> None:
        while self._pending:
            written = self._file.write(self._pending) or 0
            del self._pending[:written]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The undamaged lines of a file, each with its object."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    # Line feeds only: text may contain other line separators of Unicode.
    for line in content.split(b"\n"):
        try:
            text = line.decode("utf-8")
            row = json.loads(text)
        # RecursionError: too deeply nested.
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            yield text, row


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return True
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
