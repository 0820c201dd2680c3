"""JSON Lines: one JSON object per line, appended as a run goes.

Damage costs one line only: one that its writer was killed in, or one with a byte that
does not decode.
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
    """The objects of a file in order; damaged lines are passed over.

    Empty where there is no file.
    """
    return [row for _, row in _lines(path)]


def truncate_after(path: Path, step: int) -> list[dict[str, Any]]:
    """Remove, atomically, the rows of later steps and the damaged lines.

    Rows without an integer `step` count as damaged. The lines that stay keep their
    bytes, and a file in which all stay is not written.

    Args:
        path: the file; nothing is done where there is none.
        step: the last step that stays.

    Returns:
        The rows of later steps.
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
    """Appends rows to a file; each is in it when `append` returns.

    A row that could not be written, as on a full disk, is written first by the next
    `append`: after the OSError nothing is lost and no line is doubled.

    Args:
        path: the file; created if there is none.
    """

    def __init__(self, path: Path):
        # Not buffered: a buffer would lose or tear rows that are larger than itself.
        self._file = path.open("ab", buffering=0)
        self._pending = bytearray()
        if not _ends_a_line(path):
            self._pending += b"\n"

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one object. Floats that are not finite become null: JSON has none.

        Raises:
            OSError: it could not be written yet.
        """
        text = json.dumps(_finite(row), ensure_ascii=False, allow_nan=False)
        self._pending += text.encode("utf-8", "backslashreplace") + b"\n"
        self._write()

    def close(self) -> None:
        """Write what is pending and close the file.

        Raises:
            OSError: rows could not be written.
        """
        try:
            if self._pending.strip():
                self._write()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        """Itself."""
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
    # By line feeds alone: text may hold other characters that end a line in Unicode.
    for line in content.split(b"\n"):
        try:
            text = line.decode("utf-8")
            row = json.loads(text)
        # RecursionError: brackets without end.
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
