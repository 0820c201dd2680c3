"""Records: conversations parsed from rows, before tokenization."""

import math
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from targetsft_jax.data.filters import Test
from targetsft_jax.targets.inputs import INPUTS, column_names

if TYPE_CHECKING:
    from targetsft_jax.data.config import FieldMap


class RowError(ValueError):
    """An unusable row; the message begins with its file and line."""

    def __init__(self, origin: str, problem: str):
        super().__init__(f"{origin}: {problem}")
        self.origin = origin


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
        messages = [{"role": "user", "content": _text(row, fields.prompt, origin)}]
        if fields.response is not None and train:
            reply = _text(row, fields.response, origin)
            messages.append({"role": "assistant", "content": reply})
    if fields.system is not None:
        content = _text(row, fields.system, origin)
        messages = [{"role": "system", "content": content}, *messages]
    if not train and messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    _check_roles(messages, origin, train)

    answer = None
    if fields.answer is not None:
        answer = _text(row, fields.answer, origin)
    elif not train:
        raise RowError(origin, "no gold answer: set fields.answer to evaluate")
    columns = {
        name: _column(name, row[name], origin)
        for name in column_names()
        if row.get(name) is not None
    }
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
        value = _get(row, name, origin)
        text = "" if value is None else _as_text(value, name, origin)
        try:
            if not holds(text):
                return name
        except ValueError:
            raise RowError(
                origin,
                f"field {name!r} is {text!r}; expected a number, since data.where"
                " compares it with one",
            ) from None
    return None


def _get(row: Mapping[str, Any], name: str, origin: str) -> Any:
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            names = ", ".join(sorted(row)) or "none"
            raise RowError(origin, f"field {name!r} is missing; the row has {names}")
        value = value[part]
    return value


def _as_text(value: Any, name: str, origin: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, list):
        return "\n".join(_as_text(item, name, origin) for item in value)
    raise RowError(
        origin,
        f"field {name!r} is {type(value).__name__}; expected text, a number or a list"
        " (select a field of an object by a dot, as in 'options.A')",
    )


def _text(row: Mapping[str, Any], template: str, origin: str) -> str:
    """Text of the field named `template`, or the template with its holes filled."""
    if template in row or not ("{" in template or "}" in template):
        text = _as_text(_get(row, template, origin), template, origin)
    else:
        text = "".join(
            literal + ("" if name is None else _hole(row, name, origin))
            for literal, name, _, _ in string.Formatter().parse(template)
        )
    if not text.strip():
        raise RowError(origin, f"field {template!r} is empty; expected text")
    return text


def _hole(row: Mapping[str, Any], name: str, origin: str) -> str:
    return _as_text(_get(row, name, origin), name, origin)


def _messages(row: Mapping[str, Any], name: str, origin: str) -> list[dict[str, str]]:
    turns = _get(row, name, origin)
    if not isinstance(turns, list) or not turns:
        kind = "an empty list" if turns == [] else type(turns).__name__
        raise RowError(origin, f"field {name!r} is {kind}; expected a list of turns")
    messages = []
    for i, turn in enumerate(turns):
        path = f"{name}[{i}]"
        if not isinstance(turn, Mapping):
            kind = type(turn).__name__
            raise RowError(origin, f"{path} is {kind}; expected an object")
        for key in ("role", "content"):
            if not isinstance(turn.get(key), str):
                kind = type(turn[key]).__name__ if key in turn else "missing"
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
                f"turn {i} has role {role!r}; expected system, user or assistant",
            )
        if not _is_unicode(messages[i]["content"]):
            raise RowError(
                origin,
                f"turn {i} has an unpaired surrogate, such as \\ud800, which is not a"
                " character; repair the text",
            )
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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _column(name: str, value: Any, origin: str) -> float | list[float]:
    if isinstance(value, list) and INPUTS[name].per == "token":
        return [_number(name, item, origin) for item in value]
    return _number(name, value, origin)


def _number(name: str, value: Any, origin: str) -> float:
    domain = INPUTS[name].domain
    number = isinstance(value, bool | int | float) and math.isfinite(value)
    if not number or (domain is not None and not domain.accepts(value)):
        expected = "a number" if domain is None else f"a number, {domain.expected}"
        raise RowError(origin, f"{name} is {value!r}; expected {expected}")
    return float(value)
