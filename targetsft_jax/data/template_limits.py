"""Limits of one rendering of a chat template: characters made, loops, time.

A template comes from a model's folder, and its loops and repetitions may be endless.
Every operation that makes text or a container, every pass of a loop and every call is
charged to a budget *before* it runs, by an upper bound of what it makes. Nothing that a
template holds is thus larger than the budget.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import TemplateRuntimeError

# Characters and passes that every rendering may make, and more of them per character
# of the conversation. A template of a public model makes each character some 10 times.
_FLOOR = 1 << 24
_PER_CHARACTER = 64
SHORT = 256
"""Texts of so many characters are not charged where that would take longer than making
them; passes and calls, which are charged, bound their number."""

# Characters that one pass of a loop counts as.
_PASS = 16
# Deterministic charges end most renderings; this ends slow operations on large texts.
_SECONDS = 30.0
# Python multiplies integers of this size in microseconds.
_INTEGER_BITS = 1 << 15

# Operations whose result is no longer than their arguments together. That of all others
# is bounded by the product of the sizes of their arguments.
_LINEAR = frozenset(
    "abs capitalize casefold count decode dict dictsort e encode escape find float"
    " forceescape groupby index int list lower lstrip map max min namespace partition"
    " raise_exception reject rejectattr removeprefix removesuffix reverse rfind rindex"
    " rpartition rsplit rstrip safe select selectattr sort split splitlines string"
    " strip swapcase title trim unique upper".split()
)
# Operations that make nothing.
_CONSTANT = frozenset(
    "attr d default endswith first get items keys last length startswith values".split()
)
_DIGITS = re.compile(r"\d+")
# A format that takes a width from an argument: `%*d`, `{:>{}}`.
_WIDTH_ARGUMENT = re.compile(r"%[^a-zA-Z%]*\*|\{[^{}]*:[^{}]*\{")


class LimitError(TemplateRuntimeError):
    """A rendering beyond its limits."""


class Budget:
    """Characters, elements and passes that a rendering may still make.

    Args:
        characters: size of the conversation, in characters.
    """

    __slots__ = ("_end", "left", "limit")

    def __init__(self, characters: int):
        self.limit = self.left = _FLOOR + _PER_CHARACTER * characters
        self._end = time.monotonic() + _SECONDS

    def charge(self, number: int) -> None:
        """Take a number of characters, elements or passes.

        Raises:
            LimitError: too few are left, or the time is over.
        """
        self.left -= number
        if self.left < 0:
            raise LimitError(
                f"it loops or makes text without end (more than {self.limit:,}"
                " characters and passes of loops)"
            )
        if time.monotonic() > self._end:
            raise LimitError(f"it takes more than {_SECONDS:.0f} seconds")

    def weigh(self, value: Any) -> int:
        """Charge the size of a value with everything in it, and return the size."""
        size = _size(value, self.left)
        self.charge(size)
        return size


_BUDGET: ContextVar[Budget | None] = ContextVar("budget", default=None)


@contextmanager
def limited(characters: int) -> Iterator[None]:
    """Context of one rendering; see `Budget`."""
    token = _BUDGET.set(Budget(characters))
    try:
        yield
    finally:
        _BUDGET.reset(token)


def weighed(value: Any) -> Any:
    """Charge the size of a value, and return the value."""
    if type(value) is not str or len(value) > SHORT:
        _budget().weigh(value)
    return value


def counted(values: Any, cost: int) -> Any:
    """Values of a loop, with a charge of 16 + `cost` per pass."""
    return _Counted(values, _PASS + cost)


def charge_operator(operator: str, left: Any, right: Any) -> None:
    """Charge the result of a binary operator of a template.

    Raises:
        LimitError: beyond the budget, or an integer of more than 32,768 bits.
    """
    budget = _budget()
    if operator == "%" and isinstance(left, str | bytes):
        budget.charge(_format_cost(str(left), (right,), budget.left))
    elif operator == "+":
        budget.weigh(left)
        budget.weigh(right)
    elif operator == "*":
        budget.charge(_repeated(left, right, budget) or _repeated(right, left, budget))
        _check_bits(_bits(left) + _bits(right))
    elif operator == "**":
        exponent = right if isinstance(right, int) else 1
        _check_bits(_bits(left) * max(1, exponent))


def charge_call(name: str, values: Sequence[Any], named: Mapping[str, Any]) -> None:
    """Charge a filter or method by a bound of the size of its result.

    Args:
        name: name of the filter or method.
        values: its arguments; the text or object to which it is applied comes first.
        named: its named arguments.
    """
    budget = _budget()
    if name in _CONSTANT or not (values or named):
        budget.charge(_PASS)
        return
    sizes = [_size(value, budget.left) for value in (*values, *named.values())]
    if name in _LINEAR:
        budget.charge(_PASS + sum(sizes))
        return
    more = [*values[1:], *named.values()]
    if name == "replace" and len(more) >= 2 and isinstance(values[0], str):
        found = values[0].count(str(more[0]))
        budget.charge(1 + sizes[0] + found * sizes[2])
    elif name in ("format", "format_map"):
        budget.charge(_format_cost(str(values[0]), more, budget.left))
    else:
        # A width, a count and an indentation are numbers.
        numbers = sum(abs(x) for x in more if isinstance(x, int))
        first = sizes[0] if sizes else 1
        cost = (1 + first) * (1 + sum(sizes[1:]) + numbers)
        if name == "sum" and any(isinstance(x, list | tuple) for x in more):
            cost *= first  # Python copies the sum for every list.
        budget.charge(_PASS + cost)


def charge_result(value: Any) -> None:
    """Charge the text of a macro, and refuse a huge integer."""
    if isinstance(value, str):
        _budget().charge(len(value))
    elif isinstance(value, int):
        _check_bits(_bits(value))


def limited_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Filter of a template whose result is charged; generators become lists."""
    leading = 1 if hasattr(function, "jinja_pass_arg") else 0
    linear = name in _LINEAR

    def call(*values: Any, **named: Any) -> Any:
        if linear and len(values) == 1 and type(values[0]) is str and not named:
            weighed(values[0])
            return function(*values)
        taken = [*values[:leading], *(_concrete(value) for value in values[leading:])]
        charge_call(name, taken[leading:], named)
        result = function(*taken, **named)
        if isinstance(result, int):
            charge_result(result)
        return result

    if leading:
        call.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return call


def _budget() -> Budget:
    budget = _BUDGET.get()
    assert budget is not None, "a template is compiled and rendered in `limited`"
    return budget


class _Counted:
    """Values that are charged as they are taken; their length is not changed."""

    def __init__(self, values: Any, cost: int):
        self._values, self._cost = values, cost

    def __iter__(self) -> Iterator[Any]:
        charge, cost = _budget().charge, self._cost
        for value in self._values:
            charge(cost)
            yield value

    def __len__(self) -> int:
        return len(self._values)


def _concrete(value: Any) -> Any:
    return list(_Counted(value, _PASS)) if isinstance(value, Iterator) else value


def _size(value: Any, left: int) -> int:
    """Characters of a value, an element as 16 of them; stops counting beyond `left`.

    Elements are visited one by one, so they cost more time than characters.
    """
    if isinstance(value, str | bytes | range):
        return 1 + len(value)
    if isinstance(value, Mapping):
        parts: Any = (part for item in value.items() for part in item)
    elif isinstance(value, list | tuple | set | frozenset):
        parts = value
    else:
        return 1
    size = 1
    for part in parts:
        size += _PASS + _size(part, left - size)
        if size > left:
            break
    return size


def _repeated(value: Any, times: Any, budget: Budget) -> int:
    if isinstance(times, int) and isinstance(value, str | bytes | list | tuple):
        return _size(value, budget.left) * max(0, times)
    return 0


def _format_cost(text: str, values: Sequence[Any], left: int) -> int:
    """Bound of the length of a formatted text: its fields, and widths in digits."""
    sizes = sum(_size(value, left) for value in values)
    width = sum(int(digits[:12]) for digits in _DIGITS.findall(text))
    if _WIDTH_ARGUMENT.search(text):
        width += sum(abs(number) for number in _integers(values))
    fields = text.count("%") + text.count("{")
    return 1 + len(text) + fields * (sizes + width)


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _integers(part)
    elif isinstance(value, Mapping):
        yield from _integers(list(value.values()))


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_bits(bits: int) -> None:
    if bits > _INTEGER_BITS:
        raise LimitError(f"it makes an integer of more than {_INTEGER_BITS:,} bits")
