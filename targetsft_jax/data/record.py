"""Records: conversations parsed from rows, before tokenization."""

import math
import reprlib
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.data.filters import Test
from targetsft_jax.targets.inputs import INPUTS, column_names

if TYPE_CHECKING:
    from targetsft_jax.data.config import FieldMap


_FLOAT32 = np.finfo(np.float32)
# Smallest and largest magnitude of a normal float32. XLA rounds smaller (subnormal)
# numbers to 0.
_SMALLEST, _LARGEST = float(_FLOAT32.smallest_normal), float(_FLOAT32.max)
# Characters of a problem in an error; a row can have megabytes.
_SHOWN = 600
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SURROGATE = (
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


@dataclass(frozen=True)
class Record:
    """A conversation with its gold answer, columns and origin."""

    messages: list[dict[str, str]]
    """{"role": system | user | assistant, "content": str}, in order."""
    answer: str | None = None
    """The gold answer, if there is one."""
    columns: dict[str, float | list[float]] = field(default_factory=dict)
    """Name in `targets.inputs` -> a number, or one number per trained token."""
    origin: str = ""
    """`file:row`, or `kind:split:seed:index` of a generated record."""
    id: str = ""
    """Id of the row in its data set, else its file name and row; independent of the
    folder."""
    source: str = ""
    """Name of its source."""


def to_record(
    row: Mapping[str, Any],
    fields: "FieldMap",
    origin: str,
    *,
    train: bool = True,
    id: str = "",
    source: str = "",
) -> Record:
    """Convert a parsed row to a record.

    Args:
        row: the parsed row.
        fields: map from its fields to the conversation.
        origin: `file:row`, for error messages.
        train: require a response to train on. Otherwise the messages end before the
            last assistant turn, and a gold answer is required.
        id, source: id of the record and name of its source.

    Raises:
        RowError: a field is missing, of the wrong type or empty; roles are not
            system?, user, …; no turn to train on; a column is out of range.
    """
    if fields.prompt is None:
        messages = _messages(row, fields.messages or "messages", origin)
    else:
        messages = [{"role": "user", "content": field_text(row, fields.prompt, origin)}]
        if fields.response is not None and train:
            reply = field_text(row, fields.response, origin)
            messages.append({"role": "assistant", "content": reply})
    if fields.system is not None:
        content = field_text(row, fields.system, origin)
        messages = [{"role": "system", "content": content}, *messages]
    if not train and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    _check_roles(messages, origin, train)

    answer = None
    if fields.answer is not None:
        answer = field_text(row, fields.answer, origin)
    elif not train:
        raise RowError(origin, "no gold answer: set fields.answer to evaluate")
    columns = {
        name: _column(name, row[fields.field_of(name)], origin)
        for name in column_names()
        if row.get(fields.field_of(name)) is not None
    }
    absent = [f for f in fields.columns.values() if row.get(f) is None]
    if absent and train:
        raise RowError(origin, f"no field {absent[0]!r}, which fields.columns names")
    return Record(messages, answer, columns, origin, id, source)


def first_unmet(
    row: Mapping[str, Any], conditions: Mapping[str, Test], origin: str
) -> str | None:
    """First field whose text does not satisfy its condition, or None.

    A null counts as empty text.

    Raises:
        RowError: a field is missing, or is compared with a number and is not one.
    """
    for name, holds in conditions.items():
        value = field_value(row, name, origin)
        text = "" if value is None else _as_text(value, name, origin)
        try:
            if not holds(text):
                return name
        except ValueError:
            raise RowError(
                origin,
                f"field {name!r} is {_SHORT.repr(text)}; expected a number, since"
                " data.where compares it with one",
            ) from None
    return None


def field_value(row: Mapping[str, Any], name: str, origin: str) -> Any:
    """Value of a field, or of a nested one such as `options.A`.

    Raises:
        RowError: the field is missing; names those that there are.
    """
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            names = ", ".join(sorted(row)) or "none"
            problem = f"field {name!r} is missing; the row has {names}"
            if isinstance(value, Unreadable):
                problem = f"field {name!r} is {value.problem}"
            raise RowError(origin, problem)
        value = value[part]
    return value


def _as_text(value: Any, name: str, origin: str) -> str:
    if isinstance(value, str):
        if not is_unicode(value):
            raise RowError(origin, f"field {name!r} has {_SURROGATE}")
        return value
    if isinstance(value, bool | int | float | Decimal):
        if not math.isfinite(value):
            raise RowError(
                origin, f"field {name!r} is {value}; expected text or a finite number"
            )
        return f"{value:f}" if isinstance(value, Decimal) else str(value)
    if isinstance(value, list):
        return "\n".join(_as_text(item, name, origin) for item in value)
    raise RowError(
        origin,
        f"field {name!r} is {_kind(value)}; expected text, a number or a list"
        " (select a field of an object by a dot, as in 'options.A')",
    )


def _kind(value: Any) -> str:
    return value.problem if isinstance(value, Unreadable) else type(value).__name__


def field_text(row: Mapping[str, Any], template: str, origin: str) -> str:
    """Text of the field named `template`, or the template with its holes filled.

    Raises:
        RowError: a field is missing, empty, or not text, a number or a list of these.
    """
    if template in row or not ("{" in template or "}" in template):
        text = _as_text(field_value(row, template, origin), template, origin)
    else:
        text = "".join(
            literal + ("" if name is None else _hole(row, name, origin))
            for literal, name, _, _ in string.Formatter().parse(template)
        )
    if not text.strip():
        raise RowError(origin, f"field {template!r} is empty; expected text")
    return text


def _hole(row: Mapping[str, Any], name: str, origin: str) -> str:
    return _as_text(field_value(row, name, origin), name, origin)


def _messages(row: Mapping[str, Any], name: str, origin: str) -> list[dict[str, str]]:
    turns = field_value(row, name, origin)
    if not isinstance(turns, list) or not turns:
        kind = "an empty list" if turns == [] else _kind(turns)
        raise RowError(origin, f"field {name!r} is {kind}; expected a list of turns")
    messages = []
    for i, turn in enumerate(turns):
        path = f"{name}[{i}]"
        if not isinstance(turn, Mapping):
            raise RowError(origin, f"{path} is {_kind(turn)}; expected an object")
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                kind = _kind(turn[key]) if key in turn else "missing"
                raise RowError(origin, f"{path}.{key} is {kind}; expected text")
        if turn["role"] == "assistant" and not turn["content"].strip():
            raise RowError(origin, f"{path}.content is empty; expected a response")
        messages.append({"role": turn["role"], "content": turn["content"]})
    return messages


def _check_roles(messages: list[dict[str, str]], origin: str, train: bool) -> None:
    roles = [message["role"] for message in messages]
    for i, role in enumerate(roles):
        if role not in ("system", "user", "assistant"):
            raise RowError(
                origin,
                f"turn {i} has role {_SHORT.repr(role)}; expected system, user or"
                " assistant",
            )
        if not is_unicode(messages[i]["content"]):
            raise RowError(origin, f"turn {i} has {_SURROGATE}")
        if role == "system" and i > 0:
            raise RowError(origin, f"turn {i} has role system; expected it in turn 0")
    speakers = [role for role in roles if role != "system"]
    if speakers[:1] != ["user"]:
        first = speakers[0] if speakers else "none"
        raise RowError(origin, f"the first speaker is {first}; expected user")
    if train and "assistant" not in speakers:
        raise RowError(origin, "no assistant turn: there is nothing to train on")
    if not train and speakers[-1] != "user":
        raise RowError(origin, "the prompt does not end in a user turn")


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


def _column(name: str, value: Any, origin: str) -> float | list[float]:
    if isinstance(value, list) and INPUTS[name].per == "token":
        return [_number(name, item, origin) for item in value]
    return _number(name, value, origin)


def _number(name: str, value: Any, origin: str) -> float:
    """The number of a column, which float32 can hold."""
    domain = INPUTS[name].domain
    expected = "a number" if domain is None else f"a number, {domain.expected}"
    # Python compares whole numbers of any size with floats; NaN equals nothing.
    number = isinstance(value, bool | int | float | Decimal) and value == value
    # A weight must not vanish; a log-probability may round to 0, a probability of 1.
    if number and (abs(value) > _LARGEST or 0 < value < _SMALLEST):
        expected += f", that float32 holds: 0, or {_SMALLEST:.2g} to {_LARGEST:.2g}"
        number = False
    if not number or (domain is not None and not domain.accepts(value)):
        raise RowError(origin, f"{name} is {_SHORT.repr(value)}; expected {expected}")
    return float(value)
