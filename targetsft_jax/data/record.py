"""Records: conversations parsed from rows, before tokenization."""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from targetsft_jax.data.fields import FieldMap, is_template, parts
from targetsft_jax.data.filters import Test
from targetsft_jax.data.row_error import (
    SHORT,
    SURROGATE,
    RowError,
    Unreadable,
    is_unicode,
    kind,
)
from targetsft_jax.data.tool_calls import parse_tools
from targetsft_jax.data.turns import Message, check_roles, parse_turns
from targetsft_jax.targets.inputs import INPUTS, column_names

_FLOAT32 = np.finfo(np.float32)
# Smallest and largest magnitude of a normal float32. XLA rounds smaller (subnormal)
# numbers to 0.
_SMALLEST, _LARGEST = float(_FLOAT32.smallest_normal), float(_FLOAT32.max)


@dataclass(frozen=True)
class Record:
    """A conversation with its gold answer, columns and origin."""

    messages: list[Message]
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
    context: frozenset[int] = frozenset()
    """Indices of the assistant turns that are not trained: those of a prompt, and those
    with `weight: 0`."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """Definitions of the tools that the assistant may call."""
    is_text: bool = False
    """True for a text without roles: the only turn, of the assistant, rendered without
    the chat template."""


def to_record(
    row: Mapping[str, Any],
    fields: FieldMap,
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
    messages, context = _conversation(row, fields, origin, train)
    if fields.system is not None:
        content = field_text(row, fields.system, origin, optional=True)
        if content:
            messages = [{"role": "system", "content": content}, *messages]
            context = frozenset(turn + 1 for turn in context)
    if not train and messages[-1]["role"] == "assistant" and fields.text is None:
        messages = messages[:-1]
    if fields.text is None:
        check_roles(messages, origin, train)
    elif not train:
        raise RowError(origin, "a text has no question; expected another format")

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
    is_text = fields.text is not None
    tools: list[dict[str, Any]] = []
    if fields.tools is not None:
        tools = parse_tools(row.get(fields.tools), fields.tools, origin)
    if tools and not train:
        raise RowError(origin, "the row has tools, which are not evaluated")
    return Record(
        messages, answer, columns, origin, id, source, context, tools, is_text
    )


def _conversation(
    row: Mapping[str, Any], fields: FieldMap, origin: str, train: bool
) -> tuple[list[Message], frozenset[int]]:
    """Turns of a row, and the indices of its assistant turns that are context."""
    if fields.text is not None:
        content = field_text(row, fields.text, origin)
        return [{"role": "assistant", "content": content}], frozenset()
    if fields.prompt is None:
        name = fields.messages or "messages"
        return parse_turns(field_value(row, name, origin), name, origin)
    messages, _ = _side(row, fields.prompt, "user", origin)
    context = {i for i, turn in enumerate(messages) if turn["role"] == "assistant"}
    if fields.response is not None and train:
        reply, weightless = _side(row, fields.response, "assistant", origin)
        context |= {len(messages) + turn for turn in weightless}
        messages = [*messages, *reply]
    return messages, frozenset(context)


def _side(
    row: Mapping[str, Any], template: str, role: str, origin: str
) -> tuple[list[Message], frozenset[int]]:
    """Prompt or response of a row: text of one turn, or a list of turns."""
    if not is_template(template, row):
        value = field_value(row, template, origin)
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            return parse_turns(value, template, origin)
    content = field_text(row, template, origin)
    return [{"role": role, "content": content}], frozenset()


def remove_texts(record: Record, pattern: re.Pattern[str]) -> tuple[Record, bool]:
    """Remove the matches of a pattern from the assistant turns of a record.

    Returns:
        The record, and True if there was a match.

    Raises:
        RowError: a turn has nothing else.
    """
    messages = []
    for i, message in enumerate(record.messages):
        content = message["content"]
        if message["role"] == "assistant":
            content = pattern.sub("", content)
            if not content.strip() and not message.get("tool_calls"):
                problem = f"turn {i} is empty without the matches of data.remove"
                raise RowError(record.origin, problem)
        messages.append(message | {"content": content})
    changed = messages != record.messages
    return dataclasses.replace(record, messages=messages), changed


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
                f"field {name!r} is {SHORT.repr(text)}; expected a number, since"
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
            raise RowError(origin, f"field {name!r} has {SURROGATE}")
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
        f"field {name!r} is {kind(value)}; expected text, a number or a list"
        " (select a field of an object by a dot, as in 'options.A')",
    )


def field_text(
    row: Mapping[str, Any], template: str, origin: str, *, optional: bool = False
) -> str:
    """Text of the field named `template`, or the template with its holes filled.

    Args:
        row: the row.
        template: name or template.
        origin: `file:row`, for error messages.
        optional: a template with an optional hole may be empty.

    Raises:
        RowError: a field is missing, empty, or not text, a number or a list of these.
    """
    if is_template(template, row):
        text = _filled(row, template, origin)
        optional = optional and any(part[2] for part in parts(template))
    else:
        text = _as_text(field_value(row, template, origin), template, origin)
        optional = False
    if not text.strip() and not optional:
        raise RowError(origin, f"field {template!r} is empty; expected text")
    return text


def _filled(row: Mapping[str, Any], template: str, origin: str) -> str:
    texts = []
    for literal, name, optional in parts(template):
        value = ""
        if name is not None:
            value = _hole(row, name, optional, origin)
            if optional and not value.strip():
                literal, value = literal.rstrip(), ""
        texts += [literal, value]
    return "".join(texts)


def _hole(row: Mapping[str, Any], name: str, optional: bool, origin: str) -> str:
    top = name if name in row else name.split(".")[0]
    if optional and row.get(top) is None:
        return ""
    value = field_value(row, name, origin)
    return "" if optional and value is None else _as_text(value, name, origin)


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
        raise RowError(origin, f"{name} is {SHORT.repr(value)}; expected {expected}")
    return float(value)
