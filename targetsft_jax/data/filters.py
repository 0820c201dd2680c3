"""Row filters: conditions on the text of a field."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

Test = Callable[[str], bool]
NUMBERS = ("min", "max")
LENGTHS = ("min_chars", "max_chars")
CONDITIONS = ("not", "matches", *NUMBERS, *LENGTHS)


def conditions(where: Mapping[str, Any]) -> dict[str, Test]:
    """Compile the conditions of each field.

    Args:
        where: field -> the text to equal, a list of allowed texts, or a mapping of
            conditions that must all hold: `not` (a text or a list), `matches` (a
            regular expression, searched for), `min` and `max` (of a number),
            `min_chars` and `max_chars` (of the text).

    Returns:
        Field -> a predicate on its text. With `min` or `max` the predicate raises
        ValueError if the text is not a number.

    Raises:
        ValueError: `FIELD.CONDITION is …; expected …`.
    """
    return {field: _test(field, condition) for field, condition in where.items()}


def _test(field: str, condition: Any) -> Test:
    if not isinstance(condition, Mapping):
        texts = _texts(field, condition)
        return lambda text: text in texts
    if not condition:
        raise ValueError(f"{field} is empty; expected some of {', '.join(CONDITIONS)}")
    tests = [_condition(f"{field}.{name}", name, x) for name, x in condition.items()]
    return lambda text: all(test(text) for test in tests)


def _condition(key: str, name: str, value: Any) -> Test:
    if name == "not":
        texts = _texts(key, value)
        return lambda text: text not in texts
    if name == "matches":
        try:
            search = re.compile(value).search
        except (re.error, TypeError) as error:
            raise ValueError(
                f"{key} is {value!r}; expected a regular expression ({error})"
            ) from None
        return lambda text: search(text) is not None
    if name in NUMBERS:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key} is {value!r}; expected a number")
        if name == "min":
            return lambda text: text != "" and _number(text) >= value
        return lambda text: text != "" and _number(text) <= value
    if name in LENGTHS:
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{key} is {value!r}; expected a whole number, 0 or more")
        if name == "min_chars":
            return lambda text: len(text) >= value
        return lambda text: len(text) <= value
    raise ValueError(
        f"{key} is not a condition; expected {key.rpartition('.')[0]} to have some of"
        f" {', '.join(CONDITIONS)}"
    )


def _number(text: str) -> float:
    number = float(text)
    # No comparison holds with NaN, so the row would be left out as if it were small.
    if math.isnan(number):
        raise ValueError("NaN is not a number")
    return number


def _texts(key: str, value: Any) -> frozenset[str]:
    """Set of one or several texts; numbers and booleans are converted by `str`."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, str | bool | int | float) for v in values):
        raise ValueError(
            f"{key} is {value!r}; expected a text, a list of texts, or a mapping of"
            f" {', '.join(CONDITIONS)}"
        )
    return frozenset(map(str, values))
