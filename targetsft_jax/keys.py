"""Configuration keys, each declared once: default, help, domain, resumability.

    @section
    class TrainConfig:
        \"\"\"Optimizer, schedule and batch.\"\"\"

        batch_size: int = key(32, "Rows per optimizer step.", at_least(1))

Validation errors, `--help` and the check of a resumed run's configuration follow from
these declarations. Hyper-parameters of methods and sampling settings use the same
`Domain`.
"""

import dataclasses
import math
import types
import typing
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, dataclass_transform

LARGEST_INTEGER, LARGEST_FLOAT, SMALLEST_FLOAT = 2**31 - 1, 3e38, 1.2e-38
"""Magnitudes of numbers that int32 and float32 represent, unless a domain is wider."""


@dataclass(frozen=True)
class Domain:
    """The values that a key may have.

    Attributes:
        expected: the domain in words, which follow "expected " in an error.
        accepts: membership predicate; called with values of the key's type, never with
            None. Domains of numbers accept arrays too, entry by entry.
        largest: the largest whole number; floats must be representable in float32.
        infinite: True if infinite entries of arrays may be members.
        choices: the members, if they are names in a registry.
    """

    expected: str
    accepts: Callable[[Any], Any]
    largest: int = LARGEST_INTEGER
    infinite: bool = False
    choices: tuple[str, ...] = ()

    def refusal(self, name: str, value: Any, *, nullable: bool = False) -> str | None:
        """Error message for a value outside the domain, or None for one inside.

        Args:
            name: dotted path of the key, as the user writes it.
            value: its value; numbers must be finite.
            nullable: True if None is accepted.
        """
        if value is None and nullable:
            return None
        finite = not isinstance(value, float) or math.isfinite(value)
        # A value that the domain itself excludes needs no other bound in the message.
        limit = ""
        if value is not None and finite and self.accepts(value):
            limit = _exceeded_limit(value, self.largest)
            if not limit:
                return None
        null = ", or null" if nullable else ""
        return f"{name} is {shown(value)}; expected {self.expected}{limit}{null}"


def _exceeded_limit(value: Any, largest: int) -> str:
    """Limit of the magnitude of numbers that a value exceeds, in words, or empty."""
    if isinstance(value, int) and abs(value) > largest:
        return f", at most {largest}"
    if isinstance(value, float) and math.isfinite(value):
        if abs(value) > LARGEST_FLOAT:
            return f", at most {LARGEST_FLOAT:g}"
        if 0 < abs(value) < SMALLEST_FLOAT:
            return f", 0 or at least {SMALLEST_FLOAT:g} in magnitude"
    return ""


def shown(value: Any, limit: int = 100) -> str:
    """`repr` of a value for a message, shortened to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def shown_name(name: str) -> str:
    """Name of a key for a message: unchanged if it is short and printable."""
    return name if 0 < len(name) <= 100 and name.isprintable() else shown(name)


def at_least(smallest: float, most: float = math.inf) -> Domain:
    """Numbers ≥ `smallest`, and ≤ `most`."""
    return Domain(
        f"{smallest:g} or more{_at_most(most)}",
        lambda value: (value >= smallest) & (value <= most),
    )


def more_than(bound: float, most: float = math.inf) -> Domain:
    """Numbers > `bound`, and ≤ `most`."""
    return Domain(
        f"a number more than {bound:g}{_at_most(most)}",
        lambda value: (value > bound) & (value <= most),
    )


def _at_most(most: float) -> str:
    return "" if most == math.inf else f", at most {most:,}"


def between(low: float, high: float, *, closed: str = "[]") -> Domain:
    """Numbers in an interval; `closed` is its pair of brackets, such as "[)"."""

    def accepts(value: Any) -> Any:
        above = value >= low if closed[0] == "[" else value > low
        below = value <= high if closed[1] == "]" else value < high
        return above & below

    brackets = "[" if closed[0] == "[" else "(", "]" if closed[1] == "]" else ")"
    interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
    return Domain(f"a number in {interval}", accepts)


def one_of(choices: Iterable[str]) -> Domain:
    """Names in a registry."""
    names = tuple(choices)
    return Domain(
        f"one of {', '.join(names)}", lambda value: value in names, choices=names
    )


def key(
    default: Any,
    help: str,
    domain: Domain | None = None,
    *,
    resumable: bool = False,
) -> Any:
    """Declare a field of a `section`.

    Args:
        default: default value, or a function without arguments that returns a new one
            for each instance.
        help: one sentence for `--help`.
        domain: accepted values; None for all values of the field's type.
        resumable: True if a run may be resumed with another value: the key does not
            affect the trained model, or the change is reported (`train.steps`).
    """
    metadata = {"help": help, "domain": domain, "resumable": resumable}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


# No `field_specifiers=(key,)`: type checkers would miss the positional default.
@dataclass_transform(frozen_default=True)
def section(cls: type) -> type:
    """Turn a class of `key` fields into a frozen dataclass and document the fields."""
    frozen: Any = dataclass(frozen=True)(cls)
    lines = [
        f"    {entry.name}: {_help_line(entry)}"
        for entry in dataclasses.fields(frozen)
        if "help" in entry.metadata
    ]
    frozen.__doc__ = (cls.__doc__ or "").rstrip() + "\n\nArgs:\n" + "\n".join(lines)
    return frozen


def _help_line(entry: dataclasses.Field) -> str:
    text = " ".join(entry.metadata["help"].split())
    domain: Domain | None = entry.metadata["domain"]
    return text if domain is None else f"{text} [{domain.expected}]"


def refusals(config: Any, prefix: str = "") -> Iterator[str]:
    """Error messages for out-of-domain values of a section, nested sections included.

    Args:
        config: an instance of a `section`.
        prefix: its dotted path with a final dot; empty for the root.
    """
    hints = typing.get_type_hints(type(config))
    for entry in dataclasses.fields(config):
        value = getattr(config, entry.name)
        path = prefix + entry.name
        kind = hints[entry.name]
        if dataclasses.is_dataclass(value):
            yield from refusals(value, f"{path}.")
        elif dataclasses.is_dataclass(kind):
            first = dataclasses.fields(kind)[0].name
            yield (
                f"{path} is {value!r}; expected a section with keys such as "
                f"{path}.{first}"
            )
        elif isinstance(value, list) and any(map(dataclasses.is_dataclass, value)):
            for number, part in enumerate(value):
                yield from refusals(part, f"{path}[{number}].")
        nullable = types.NoneType in typing.get_args(kind)
        domain: Domain | None = entry.metadata.get("domain")
        refusal = None
        if domain is not None:
            refusal = domain.refusal(path, value, nullable=nullable)
        elif value is None and not nullable:
            refusal = f"{path} is None; expected a value"
        if refusal is not None:
            yield refusal
        else:
            yield from _plain_refusals(path, value, domain is None)


def _plain_refusals(path: str, value: Any, is_name: bool) -> Iterator[str]:
    """Error messages for values that no key may have, inside lists and mappings too.

    Args:
        path: dotted path of the value.
        value: plain data.
        is_name: True for a text on one line, such as a name or path, not a template.
    """
    domain: Domain | None = None
    if isinstance(value, str):
        domain = _NAME if is_name else _TEXT
    elif isinstance(value, int | float) and not isinstance(value, bool):
        domain = _NUMBER
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _plain_refusals(f"{path}[{number}]", item, is_name)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _plain_refusals(f"key of {path}", name, False)
            yield from _plain_refusals(f"{path}.{name}", item, False)
    if domain is not None and (refusal := domain.refusal(path, value)) is not None:
        yield refusal


def _is_text(text: str) -> bool:
    """True for text that UTF-8 encodes, without NUL."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _is_name(text: str) -> bool:
    return (
        _is_text(text)
        and bool(text.strip())
        and len(text) <= _NAME_CHARACTERS
        and not any(unicodedata.category(character) == "Cc" for character in text)
    )


_NAME_CHARACTERS = 4096
_TEXT = Domain("text in UTF-8, without NUL characters", _is_text)
_NAME = Domain(
    f"a text in UTF-8 that is not blank, on one line, of at most {_NAME_CHARACTERS} "
    "characters",
    _is_name,
)
_NUMBER = Domain("a finite number", lambda _: True, largest=2**53)


def resumable_keys(section: type, prefix: str = "") -> Iterator[str]:
    """Dotted paths of the keys that a resumed run may change.

    The path of a section covers all of its keys.
    """
    hints = typing.get_type_hints(section)
    for entry in dataclasses.fields(section):
        path = prefix + entry.name
        if entry.metadata.get("resumable"):
            yield path
            continue
        parts = [hints[entry.name], *typing.get_args(hints[entry.name])]
        for part in parts:
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from resumable_keys(part, f"{path}.")
                break
