"""Which rows are kept: conditions on the text of a field."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Test = Callable[[str], bool]
NUMBERS = ("min", "max")
LENGTHS = ("min_chars", "max_chars")
CONDITIONS = ("not", "matches", *NUMBERS, *LENGTHS)


def conditions(where: Mapping[str, Any]) -> dict[str, Test]:
    """What each field's text must satisfy.

    Args:
        where: by field, a text it must equal, a list of texts of which it must be
            one, or a mapping of conditions that must all hold: `not` (a text or a
            list), `matches` (a regular expression found anywhere), `min` and `max`
            (of a number), `min_chars` and `max_chars` (of the text).

    Returns:
        By field, a function of its text. It raises ValueError where a number is asked
        for and the text is none.

    Raises:
        ValueError: `FIELD.CONDITION is …; expected …`.
    """
    return {field: _test(field, wanted) for field, wanted in where.items()}


def _test(field: str, wanted: Any) -> Test:
    if not isinstance(wanted, Mapping):
        texts = _texts(field, wanted)
        return lambda text: text in texts
    if not wanted:
        raise ValueError(f"{field} is empty; expected some of {', '.join(CONDITIONS)}")
    tests = [_condition(f"{field}.{name}", name, of) for name, of in wanted.items()]
    return lambda text: all(test(text) for test in tests)


def _condition(key: str, name: str, of: Any) -> Test:
    if name == "not":
        texts = _texts(key, of)
        return lambda text: text not in texts
    if name == "matches":
        try:
            found = re.compile(of).search
        except (re.error, TypeError) as error:
            raise ValueError(
                f"{key} is {of!r}; expected a regular expression ({error})"
            ) from None
        return lambda text: found(text) is not None
    if name in NUMBERS:
        if isinstance(of, bool) or not isinstance(of, int | float):
            raise ValueError(f"{key} is {of!r}; expected a number")
        if name == "min":
            return lambda text: text != "" and float(text) >= of
        return lambda text: text != "" and float(text) <= of
    if name in LENGTHS:
        if isinstance(of, bool) or not isinstance(of, int) or of < 0:
            raise ValueError(f"{key} is {of!r}; expected a whole number, 0 or more")
        if name == "min_chars":
            return lambda text: len(text) >= of
        return lambda text: len(text) <= of
    raise ValueError(
        f"{key} is no condition; expected {key.rpartition('.')[0]} to have some of"
        f" {', '.join(CONDITIONS)}"
    )


def _texts(key: str, value: Any) -> frozenset[str]:
    """One text or several; numbers and booleans as Python writes them."""
    values = value if isinstance(value, list | tuple) else [value]
    if not values or not all(isinstance(v, str | bool | int | float) for v in values):
        raise ValueError(
            f"{key} is {value!r}; expected a text, a list of texts, or a mapping of"
            f" {', '.join(CONDITIONS)}"
        )
    return frozenset(map(str, values))
