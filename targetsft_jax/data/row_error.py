"""Errors of rows: one printable line with file and row, whatever the row contains."""

import reprlib
from dataclasses import dataclass
from typing import Any

# Characters of a problem in an error; a row can have megabytes.
_SHOWN = 600
SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 80
SURROGATE = (
    "an unpaired surrogate, such as \\ud800, which is not a character; repair the text"
)


class RowError(ValueError):
    """An unusable row; the message begins with its file and line.

    It is one line of at most some hundred printable characters, whatever the row
    contains.
    """

    def __init__(self, origin: str, problem: str):
        if len(problem) > _SHOWN:
            problem = problem[:_SHOWN] + "…"
        super().__init__(_printable(f"{origin}: {problem}"))
        self.origin = origin

    @classmethod
    def of(cls, origin: str, error: BaseException) -> "RowError":
        """Error of a row for one of `ROW_FAULTS`."""
        if isinstance(error, cls):
            return error
        if isinstance(error, RecursionError):
            return cls(origin, "nested too deeply; expected a flat row")
        name = type(error).__name__
        return cls(origin, f"the row cannot be used ({name}: {error})")


ROW_FAULTS = (ValueError, ArithmeticError, RecursionError, MemoryError)
"""Errors of a row's content, raised by its reader or by a library under it."""


@dataclass(frozen=True)
class Unreadable:
    """A value that its file format has and Python lacks; an error where it is used."""

    problem: str

    def __repr__(self) -> str:
        return self.problem


def kind(value: Any) -> str:
    """Type of a value in words, or the problem of an unreadable one."""
    return value.problem if isinstance(value, Unreadable) else type(value).__name__


def is_unicode(text: str) -> bool:
    """True for text without unpaired surrogates, which UTF-8 and tokenizers lack."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text
    )
