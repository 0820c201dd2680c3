"""Shapes of rows, each recognised by the names of its columns.

An entry of SHAPES is all that a shape needs: its columns, and the map from them to a
conversation.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from targetsft_jax.data.fields import FieldMap, used_fields
from targetsft_jax.data.json_rows import MAX_LINE, parse_row
from targetsft_jax.data.row_error import ROW_FAULTS, RowError
from targetsft_jax.targets.inputs import column_names

if TYPE_CHECKING:
    from targetsft_jax.data.config import SourceConfig
    from targetsft_jax.data.sources import Row

AUTO = "auto"
"""Value of `data.format` for the shape that the first rows have."""

# Usual names of columns, for the error about an unknown shape.
_PROMPTS = ("prompt", "question", "problem", "instruction", "query", "input")
_RESPONSES = ("response", "completion", "answer", "solution", "output", "target")
# Rows that decide the shape, and rows among which these are searched for.
_DECIDING, _SEARCHED = 16, 1024
# Column names in a message.
_NAMES = 30


@dataclass(frozen=True)
class Shape:
    """A shape of rows.

    Attributes:
        title: name in reports.
        about: one sentence for the documentation.
        columns: those that a row must have to be recognised.
        fields: map from the columns to a conversation.
        weak: recognised only in rows that fit no other shape.
    """

    title: str
    about: str
    columns: tuple[str, ...]
    fields: FieldMap
    weak: bool = False


SHAPES: dict[str, Shape] = {
    "messages": Shape(
        "messages",
        "A list of turns, `role` and `content` (OpenAI, TRL).",
        ("messages",),
        FieldMap(tools="tools"),
    ),
    "sharegpt": Shape(
        "ShareGPT",
        "A list of turns, `from` (human, gpt, system) and `value`.",
        ("conversations",),
        FieldMap(messages="conversations", system="{system?}", tools="tools"),
    ),
    "alpaca": Shape(
        "Alpaca",
        "An instruction, perhaps with an input; the output is trained.",
        ("instruction", "output"),
        FieldMap(
            prompt="{instruction}\n\n{input?}", response="output", system="{system?}"
        ),
    ),
    "prompt_completion": Shape(
        "prompt/completion",
        "Two texts, or two lists of turns (TRL); the completion is trained.",
        ("prompt", "completion"),
        FieldMap(prompt="prompt", response="completion", tools="tools"),
    ),
    "question_answer": Shape(
        "question/answer",
        "Two texts; the answer is trained, and is the gold answer of an evaluation.",
        ("question", "answer"),
        FieldMap(prompt="question", response="answer", answer="answer"),
    ),
    "text": Shape(
        "text",
        "A text without roles and chat template, of which everything is trained;"
        " recognised in rows that fit no other shape.",
        ("text",),
        FieldMap(text="text"),
        weak=True,
    ),
}


@dataclass(frozen=True)
class Reading:
    """The map by which the rows of a source are read."""

    fields: FieldMap
    title: str
    """Name of the shape, or the keys that name the fields."""
    unused: list[str] = field(default_factory=list)
    """Columns of the first rows that are not read."""
    required: tuple[str, ...] = ()
    """Columns of the recognised shape, which every row must have."""

    def check(self, row: Mapping[str, Any], origin: str) -> None:
        """Refuse a row of another shape.

        Raises:
            RowError: names the columns and the shape.
        """
        for name in self.required:
            if name not in row:
                raise RowError(
                    origin,
                    f"field {name!r} is missing; the row has"
                    f" {_listed(sorted(row)) or 'none'}, and the first rows of the"
                    f" source are read as {self.title}",
                )

    def __str__(self) -> str:
        if not self.unused:
            return self.title
        return f"{self.title} (columns not read: {_listed(self.unused)})"


def recognise(
    source: "SourceConfig",
    rows: Iterable[tuple[str, "Row"]],
    names: Sequence[str] = (),
) -> tuple[Iterator[tuple[str, "Row"]], Reading]:
    """Choose the map of the fields of a source, by its keys or by its first rows.

    Args:
        source: a source of files.
        rows: its rows with their origins; a stream.
        names: columns of a table, known when its first row was read; empty: those of
            the first rows.

    Returns:
        All rows, the first included, and the map.

    Raises:
        ValueError: the first rows fit none or several of SHAPES; names the columns and
            the keys to set.
    """
    stream = iter(rows)
    buffer, parsed = _first_rows(stream)
    columns = list(names or dict.fromkeys(name for _, row in parsed for name in row))
    fields, title = requested(source), _own_title(source.fields)
    if source.format != AUTO:
        title = SHAPES[source.format].title
    required: tuple[str, ...] = ()
    if fields is None and parsed:
        shape = SHAPES[_fitting(parsed, columns)]
        fields, title = _merged(shape, source.fields), shape.title
        required = shape.columns
    # If no row can be parsed, the reader reports each.
    fields = fields or source.fields
    return itertools.chain(buffer, stream), Reading(
        fields, title, _unused(fields, columns, source.where), required
    )


def requested(source: "SourceConfig") -> FieldMap | None:
    """Map of fields by the keys of a source; None if its rows decide."""
    fields = source.fields
    if (
        fields.text
        or fields.prompt is not None
        or fields.messages != FieldMap().messages
    ):
        return fields
    if source.format == AUTO:
        return None
    return _merged(SHAPES[source.format], fields)


def columns_to_read(
    source: "SourceConfig", names: Sequence[str], prompt: str | None = None
) -> list[str]:
    """Columns of a table that a source uses; all if it uses a missing one.

    The error about a missing field or an unknown shape lists the others.

    Args:
        source: a source of files.
        names: all columns.
        prompt: template in place of each row's prompt; None: its own.
    """
    fields = requested(source)
    if fields is not None:
        maps = [fields]
    else:
        fits = _by_names([set(names)])
        maps = [_merged(SHAPES[name], source.fields) for name in fits]
    if not maps:
        return list(dict.fromkeys(names))
    inputs = map(source.fields.field_of, column_names())
    read = {name for name in inputs if name in names}
    uses = [use for each in maps for use in used_fields(each, names)]
    if prompt is not None:
        uses += used_fields(FieldMap(prompt=prompt), names)
    for name, must_exist in [*uses, *((name, True) for name in source.where)]:
        column = name if name in names else name.split(".")[0]
        if column in names:
            read.add(column)
        elif must_exist:
            return list(dict.fromkeys(names))
    return [name for name in dict.fromkeys(names) if name in read]


def _first_rows(
    stream: Iterator[tuple[str, "Row"]],
) -> tuple[list[tuple[str, "Row"]], list[tuple[str, Mapping[str, Any]]]]:
    """Rows from the start of a stream, and the parsed ones among them."""
    buffer: list[tuple[str, Row]] = []
    parsed = []
    size = 0
    for origin, raw in itertools.islice(stream, _SEARCHED):
        buffer.append((origin, raw))
        size += len(raw) if isinstance(raw, bytes) else 0
        # An unusable row is reported where it is read again.
        with contextlib.suppress(*ROW_FAULTS):
            parsed.append((origin, parse_row(raw, origin)))
        if len(parsed) == _DECIDING or size > MAX_LINE:
            break
    return buffer, parsed


def _by_names(rows: Iterable[Collection[str]]) -> list[str]:
    """Shapes that fit any of the rows, by the names of their columns."""
    rows = list(rows)
    fits = [
        name
        for name, shape in SHAPES.items()
        if any(set(shape.columns) <= {*row} for row in rows)
    ]
    return [name for name in fits if not SHAPES[name].weak] or fits


def _fitting(
    parsed: Sequence[tuple[str, Mapping[str, Any]]], columns: Sequence[str]
) -> str:
    """Name of the only shape that the rows fit."""
    # A table has every column in every row, perhaps as null.
    fits = _by_names([k for k, v in row.items() if v is not None] for _, row in parsed)
    fits = fits or _by_names(row for _, row in parsed)
    if len(fits) == 1:
        return fits[0]
    origin = parsed[0][0]
    if fits:
        raise ValueError(
            f"{origin}: the columns {_listed(columns)} fit several shapes of rows,"
            f" {', '.join(fits)}; set data.format to one of them"
        )
    known = "; ".join(f"{k} ({', '.join(s.columns)})" for k, s in SHAPES.items())
    raise ValueError(
        f"{origin}: the columns {_listed(columns)} fit no known shape of rows: {known}."
        f" Name the columns, as in {_suggestion(columns)}, or rename them"
    )


def _suggestion(columns: Sequence[str]) -> str:
    """Keys that name a prompt and a response among the columns, by usual names."""
    lower = {name.lower(): name for name in columns}
    prompt = next((lower[name] for name in _PROMPTS if name in lower), "PROMPT")
    response = next((lower[name] for name in _RESPONSES if name in lower), "RESPONSE")
    return f"--data.fields.prompt {prompt} --data.fields.response {response}"


def _merged(shape: Shape, fields: FieldMap) -> FieldMap:
    """Map of a shape, with the keys that a user may add to it."""
    return dataclasses.replace(
        shape.fields,
        system=fields.system or shape.fields.system,
        answer=fields.answer or shape.fields.answer,
        tools=fields.tools or shape.fields.tools,
        columns=fields.columns,
    )


def _own_title(fields: FieldMap) -> str:
    """Keys of `data.fields` with the conversation, for reports."""
    if fields.text is not None:
        return f"text {fields.text!r}"
    if fields.prompt is None:
        return f"turns in {fields.messages!r}"
    response = "" if fields.response is None else f", response {fields.response!r}"
    return f"prompt {fields.prompt!r}{response}"


def _unused(
    fields: FieldMap, columns: Sequence[str], where: Mapping[str, Any]
) -> list[str]:
    uses = [name for name, _ in used_fields(fields, columns)]
    read = {*uses, *where, *map(fields.field_of, column_names())}
    return [
        name
        for name in columns
        if name not in read and not any(use.split(".")[0] == name for use in read)
    ]


def _listed(names: Sequence[str]) -> str:
    text = ", ".join(names[:_NAMES])
    return text if len(names) <= _NAMES else f"{text} and {len(names) - _NAMES} more"
