"""Standard streams that cannot end a command: closed, full, or without Unicode.

A long run must not end because its output cannot be written: the reader of the pipe has
exited, the terminal was closed, or the disk of a log file is full.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


@contextlib.contextmanager
def robust_streams() -> Iterator[None]:
    """Context in which writing to standard output or error never raises.

    Characters that the stream's encoding lacks are written as backslash escapes. The
    lines of a stream that cannot be written are lost, which is reported once on
    standard error.
    """
    before = sys.stdout, sys.stderr
    error = _Robust(before[1], "standard error", None)
    output = _Robust(before[0], "standard output", error)
    sys.stdout, sys.stderr = output, error  # type: ignore[assignment]
    try:
        yield
    finally:
        output.finish()
        error.finish()
        sys.stdout, sys.stderr = before


class _Robust:
    """Text stream in front of another one; None stands for a closed one."""

    def __init__(self, stream: TextIO | None, name: str, report: "_Robust | None"):
        self._stream, self._name, self._report = stream, name, report
        self._failed = False
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text; returns its length, also if the text is lost."""
        with self._losses():
            if self._stream is not None:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._losses():
            if self._stream is not None:
                self._stream.flush()

    def isatty(self) -> bool:
        """True for a terminal."""
        return self._stream is not None and self._stream.isatty()

    @property
    def encoding(self) -> str:
        """Encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def finish(self) -> None:
        """Flush for the last time, so that nothing is left to the interpreter."""
        self._failed = False
        self.flush()
        if self._failed and self._stream is not None:
            _redirect_to_null(self._stream)

    @contextlib.contextmanager
    def _losses(self) -> Iterator[None]:
        """Lose what cannot be written; a stream without a reader is given up."""
        try:
            yield
        # ValueError: the stream was closed.
        except (OSError, ValueError) as error:
            if not self._failed and self._report is not None:
                text = f"{self._name} cannot be written ({error}); its lines are lost\n"
                self._report.write(text)
            self._failed = True
            if getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                stream, self._stream = self._stream, None
                if stream is not None:
                    _redirect_to_null(stream)


def _redirect_to_null(stream: TextIO) -> None:
    """Let later flushes succeed, such as that of the interpreter at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
