"""One declaration per configuration key: default, help, domain, and resumability.

    @section
    class TrainConfig:
        \"\"\"Optimizer, schedule and batch.\"\"\"

        batch_size: int = key(32, "Rows per optimizer step.", at_least(1))

Refusals, `--help` and the comparison of a run with its resumption all read these
declarations. Hyper-parameters of methods and sampling settings use the same `Domain`.
"""

import dataclasses
import math
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, dataclass_transform


@dataclass(frozen=True)
class Domain:
    """The values that a key may have.

    Attributes:
        expected: the domain in words, as an error message completes "expected ".
        accepts: whether a value lies in it. Called with values of the key's type,
            never with None.
    """

    expected: str
    accepts: Callable[[Any], bool]

    def refusal(self, name: str, value: Any, *, nullable: bool = False) -> str | None:
        """The sentence that refuses a value, or None where the domain has it.

        Args:
            name: dotted path of the key, as the user writes it.
            value: its value; numbers must be finite.
            nullable: whether None is a value too.
        """
        if value is None and nullable:
            return None
        finite = not isinstance(value, float) or math.isfinite(value)
        if value is not None and finite and self.accepts(value):
            return None
        return f"{name} is {value!r}; expected {self.expected}" + (
            ", or null" if nullable else ""
        )


def at_least(smallest: float) -> Domain:
    """Numbers from `smallest` on."""
    return Domain(f"{smallest:g} or more", lambda value: value >= smallest)


def more_than(bound: float) -> Domain:
    """Numbers above `bound`."""
    return Domain(f"a number more than {bound:g}", lambda value: value > bound)


def between(low: float, high: float, *, closed: str = "[]") -> Domain:
    """Numbers of an interval; `closed` has its brackets, such as "[)"."""

    def accepts(value: Any) -> bool:
        above = value >= low if closed[0] == "[" else value > low
        below = value <= high if closed[1] == "]" else value < high
        return above and below

    brackets = "[" if closed[0] == "[" else "(", "]" if closed[1] == "]" else ")"
    interval = f"{brackets[0]}{low:g}, {high:g}{brackets[1]}"
    return Domain(f"a number in {interval}", accepts)


def one_of(choices: Iterable[str]) -> Domain:
    """Names from a registry."""
    names = tuple(choices)
    return Domain(f"one of {', '.join(names)}", lambda value: value in names)


def key(
    default: Any,
    help: str,
    domain: Domain | None = None,
    *,
    resumable: bool = False,
) -> Any:
    """A field of a `section`.

    Args:
        default: its default; a function without arguments makes a new one each time.
        help: one sentence for `--help`.
        domain: the values that it may have; None: any of its type.
        resumable: whether a run may be resumed with another value: the key changes
            where or how something is done, not the trained model.
    """
    metadata = {"help": help, "domain": domain, "resumable": resumable}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


# `key` is no field specifier to type checkers: they would not see its default.
@dataclass_transform(frozen_default=True)
def section(cls: type) -> type:
    """Make a class of `key` fields a frozen dataclass whose docstring lists them."""
    made: Any = dataclass(frozen=True)(cls)
    lines = [
        f"    {each.name}: {_help_line(each)}"
        for each in dataclasses.fields(made)
        if "help" in each.metadata
    ]
    made.__doc__ = (cls.__doc__ or "").rstrip() + "\n\nArgs:\n" + "\n".join(lines)
    return made


def _help_line(each: dataclasses.Field) -> str:
    text = " ".join(each.metadata["help"].split())
    domain: Domain | None = each.metadata["domain"]
    return text if domain is None else f"{text} [{domain.expected}]"


def refusals(config: Any, prefix: str = "") -> Iterator[str]:
    """Sentences that refuse the values of a section and of the sections inside it.

    Args:
        config: an instance of a `section`.
        prefix: its dotted path with a final dot; empty for the root.
    """
    hints = typing.get_type_hints(type(config))
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        path = prefix + each.name
        kind = hints[each.name]
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
        domain: Domain | None = each.metadata.get("domain")
        if domain is not None:
            nullable = "None" in str(each.type)
            refusal = domain.refusal(path, value, nullable=nullable)
            if refusal is not None:
                yield refusal


def resumable_keys(section: type, prefix: str = "") -> Iterator[str]:
    """Dotted paths of the keys that a resumption may change; a section covers all of
    its keys."""
    hints = typing.get_type_hints(section)
    for each in dataclasses.fields(section):
        path = prefix + each.name
        if each.metadata.get("resumable"):
            yield path
            continue
        parts = [hints[each.name], *typing.get_args(hints[each.name])]
        for part in parts:
            if dataclasses.is_dataclass(part) and isinstance(part, type):
                yield from resumable_keys(part, f"{path}.")
                break
