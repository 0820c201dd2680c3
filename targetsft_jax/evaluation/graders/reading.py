r"""Read the structure of an answer from its LaTeX or plain text."""

import re
from dataclasses import replace
from fractions import Fraction

from targetsft_jax.evaluation.graders.expressions import (
    of_value,
    parse_expression,
    symbol,
)
from targetsft_jax.evaluation.graders.latex import (
    clean,
    is_balanced,
    outer_brackets,
    split,
    tokens,
)
from targetsft_jax.evaluation.graders.limits import ITEMS
from targetsft_jax.evaluation.graders.structure import (
    EMPTY,
    Dots,
    Group,
    Interval,
    Matrix,
    Named,
    Relation,
    Scalar,
    SetExpression,
    Structure,
    Text,
)
from targetsft_jax.evaluation.graders.units import number_in_words, split_unit

_WORD = r"[A-Za-z][A-Za-z'.\-]*"
_WORDS = re.compile(rf"{_WORD}(?: {_WORD})*")
_TEXTS = re.compile(r"(?:\s*\\text\s*\{[^{}]*\}\s*)+")
_SEPARATOR = re.compile(
    r"\s*(?:[,;]\s*)?(?:\\text\s*\{\s*(?:,|;)?\s*(?:and|or)\s*\}"
    r"|\\l(?:or|and)(?![a-zA-Z])|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z]))\s*|\s*[,;]\s*"
)
_SET_OPERATOR = re.compile(r"\s*\\(?:cup|cap|setminus)(?![a-zA-Z])\s*")
_RELATION = re.compile(
    r"\s*(?:\\(?:le|ge|ne|approx|in|equiv|subset|subseteq|notin|propto|sim|to"
    r"|rightarrow|Rightarrow|implies|iff)(?![a-zA-Z])|<|>|=)\s*"
)
_PLUS_MINUS = re.compile(r"\\(?:pm|mp)(?![a-zA-Z])")
_NAME = re.compile(
    r"(?:\\(?!pi(?![a-zA-Z])|frac|sqrt|sin|cos|tan|log|ln|binom|text)[a-zA-Z]+\s*|[a-zA-Z])"
    r"(?:\s*_\s*(?:\{[^{}]*\}|[a-zA-Z0-9]|\\[a-zA-Z]+))?'*(?:\s*\([^()]*\))?"
    r"|[A-Z]{2,4}|\\text\s*\{[^{}]*\}"
)
_MATRIX = re.compile(
    r"\\begin\s*\{(?P<kind>[pbvBV]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?(?P<body>.*?)"
    r"\\end\s*\{(?P=kind)\}",
    re.DOTALL,
)
_CASES = re.compile(
    r"\\begin\s*\{(cases|aligned|align\*?|gathered|split)\}(.*)\\end\s*\{\1\}",
    re.DOTALL,
)
_BASED = re.compile(
    r"(?:\(?\s*|\\text\s*\{)([0-9A-Fa-f]+(?:\.[0-9]+)?)\s*[)}]?\s*"
    r"_\s*\{?\s*(?:\\text\s*\{)?\s*(\d+|[a-z]{3,8})\s*\}?\s*\}?"
)
_DOTS = re.compile(r"\\dots(?![a-zA-Z])")
_OPTION = re.compile(r"\(?([A-Za-z])\)?\.?")


def read_answer(text: str) -> list[Structure]:
    r"""Read an answer; every way to read it, none if it is not complete.

    `1,234` is a number and a list; `\pi \approx 3.14` is both values.
    """
    cleaned = clean(text)
    if not cleaned or not is_balanced(cleaned):
        return []
    readings = []
    for candidate in _candidates(cleaned):
        structure = _read(candidate)
        if structure is not None and structure not in readings:
            readings.append(structure)
    return readings


_THOUSANDS = re.compile(r"(?<![\d.,])([1-9]\d{0,2})((?:,\d{3})+)(?!\d|,\d)")


def _candidates(text: str) -> list[str]:
    found = []
    without = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text)
    for candidate in (without, text):
        exact, approximation = split(
            candidate, re.compile(r"\s*\\approx(?![a-zA-Z])\s*")
        )
        if not approximation:
            found.append(candidate)
            continue
        if _NAME.fullmatch(exact[0]) and len(exact) > 1:
            exact = exact[1:]
        found += exact
    return list(dict.fromkeys(found))


def _read(text: str) -> Structure | None:
    text = text.strip()
    brackets = outer_brackets(text)
    if brackets is not None and brackets[0] == "{":
        return _read(brackets[1])
    for reader in (
        _read_words,
        _read_environment,
        _read_set_expression,
        _read_list,
        _read_relation,
        _read_plus_minus,
        _read_brackets,
        _read_ratio,
        _read_scalar,
    ):
        structure = reader(text)
        if structure is not None:
            return structure
    return None


_NO_SOLUTION = frozenset(
    (
        "no solution",
        "no solutions",
        "empty set",
        "the empty set",
        "\\emptyset",
        "\\{\\}",
    )
)


def _read_words(text: str) -> Structure | None:
    if text.lower().rstrip(".") in _NO_SOLUTION or text.replace(" ", "") == r"\{\}":
        return EMPTY
    number_set = re.fullmatch(r"\\mathbb\s*\{?\s*([A-Z])\s*\}?", text)
    if number_set is not None:
        name = "reals" if number_set.group(1) == "R" else f"set_{number_set.group(1)}"
        return Scalar(symbol(name))
    in_text = _TEXTS.fullmatch(text) is not None
    words = re.sub(r"\\text\s*\{([^{}]*)\}", r" \1 ", text) if in_text else text
    words = " ".join(words.split()).strip(" .,:;!\"'")
    option = _OPTION.fullmatch(words)
    if option is not None and (in_text or words != option.group(1)):
        return Text(option.group(1).lower())
    if not _WORDS.fullmatch(words):
        if in_text and words:
            inner = clean(words)
            return _read(inner) if "text" not in inner else Text(words.lower())
        return None
    if words.lower() in _NO_SOLUTION:
        return EMPTY
    value = number_in_words(words)
    if value is not None:
        return Scalar(of_value(value))
    if in_text or _is_prose(words):
        if not in_text and _SEPARATOR.search(f" {words} "):
            return None
        if in_text and re.search(r"\b(?:or|and)\b", words):
            parts = re.split(r"\s*,?\s*\b(?:or|and)\b\s*|,\s*", words)
            values = [number_in_words(part) for part in parts]
            if all(value is not None for value in values):
                return Group("list", tuple(Scalar(of_value(v)) for v in values if v))
        return Text(words.lower())
    return None


def _is_prose(words: str) -> bool:
    """True if letters are words and not a product of symbols."""
    if len(words) == 1:
        return False
    return (
        len(words.replace(" ", "")) >= 4
        or re.fullmatch("[A-Z]{3}", words) is not None
        or words.lower() in ("yes", "no", "all", "odd", "red", "sat", "sun", "mon")
    )


def _read_environment(text: str) -> Structure | None:
    match = _MATRIX.fullmatch(text)
    if match is None and text.startswith("[") and text.endswith("]"):
        match = _MATRIX.fullmatch(text[1:-1].strip())
    if match is None and text.startswith("(") and text.endswith(")"):
        match = _MATRIX.fullmatch(text[1:-1].strip())
    if match is not None:
        lines = re.split(r"\\\\(?:\[[^\]]*\])?", match.group("body"))
        cells = [line.split("&") for line in lines if line.strip(" &")]
        cells = [[cell.replace(r"\hline", "") for cell in row] for row in cells]
        if not cells or len(cells) * len(cells[0]) > ITEMS:
            return None
        rows = [_read_all(row) for row in cells]
        if any(row is None for row in rows) or len({len(row) for row in cells}) != 1:
            return None
        return Matrix(tuple(row for row in rows if row is not None))
    match = _CASES.fullmatch(text)
    if match is not None and "&&" not in match.group(2):
        lines = re.split(r"\\\\(?:\[[^\]]*\])?", match.group(2).replace("&", ""))
        items = _read_all([line.strip(" ,;") for line in lines if line.strip(" ,;")])
        if items and all(isinstance(item, Named | Relation) for item in items):
            return Group("list", items, conjunction=True)
    return None


def _read_all(texts: list[str]) -> tuple[Structure, ...] | None:
    """Read each text; None if one cannot be read."""
    if len(texts) > ITEMS:
        return None
    items = [_read(text) for text in texts]
    return None if any(i is None for i in items) else tuple(i for i in items if i)


def _read_set_expression(text: str) -> Structure | None:
    named = re.match(rf"({_NAME.pattern})\s*(?:\\in(?![a-zA-Z])|=)\s*", text)
    head = named.group(1) if named else None
    rest = text[named.end() :] if named else text
    parts, operators = split(rest, _SET_OPERATOR)
    if not operators:
        return None
    items = _read_all(parts)
    if items is None:
        return None
    expression = SetExpression(items, tuple(op[1:] for op in operators))
    return expression if head is None else Named(_name(head), expression)


def _read_list(text: str) -> Structure | None:
    parts, separators = split(text, _SEPARATOR)
    if not separators:
        return None
    parts = [part for part in parts if part]
    if len(parts) < 2:
        return _read(parts[0]) if parts else None
    items = _read_all(parts)
    if items is None:
        return None
    first = items[0]
    if isinstance(first, Named) and all(isinstance(i, Scalar) for i in items[1:]):
        return Named(first.name, Group("list", (first.value, *items[1:])))
    conjunction = all(re.search("and", separator) for separator in separators)
    last = items[-1]
    if isinstance(last, Scalar) and last.unit is not None:
        items = tuple(
            replace(i, unit=last.unit)
            if isinstance(i, Scalar) and i.unit is None
            else i
            for i in items
        )
    return Group("list", items, conjunction)


def _name(text: str) -> tuple[str, ...]:
    text = re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", text)
    return tuple(
        token
        for token in tokens(text.lower() if len(text) > 9 else text)
        if token not in "{}"
    )


def _read_relation(text: str) -> Structure | None:
    sides, operators = split(text, _RELATION)
    if not operators or not all(sides):
        return None
    names = re.fullmatch(
        rf"\(\s*(?:{_NAME.pattern})(?:\s*,\s*(?:{_NAME.pattern}))+\s*\)", sides[0]
    )
    if operators == ["="] and names is not None:
        return _read(sides[1])
    if operators[0] in ("=", r"\in", r"\to", r"\rightarrow") and _NAME.fullmatch(
        sides[0]
    ):
        # The last of a chain of equations is the value: x = 2 + 3 = 5.
        if set(operators[1:]) - {"="}:
            return None
        value = _read(sides[-1])
        if value is None:
            return None
        relation = None
        if operators == ["="]:
            left = _read_scalar(sides[0])
            if left is not None:
                relation = Relation((left, value), ("=",))
        return Named(_name(sides[0]), value, relation)
    if set(operators) - {"=", "<", ">", r"\le", r"\ge", r"\ne"}:
        return None
    items = _read_all(sides)
    if items is None or not all(isinstance(item, Scalar) for item in items):
        return None
    return Relation(items, tuple(operators))


def _read_plus_minus(text: str) -> Structure | None:
    found = _PLUS_MINUS.findall(text)
    if len(found) != 1:
        return None
    items = _read_all([_PLUS_MINUS.sub(sign, text) for sign in ("+", "-")])
    if items is None or not all(isinstance(item, Scalar) for item in items):
        return None
    return Group("list", items)


def _read_brackets(text: str) -> Structure | None:
    brackets = outer_brackets(text)
    if brackets is None:
        return None
    opening, content, closing = brackets
    if opening == r"\{":
        return _read_set(content)
    parts, separators = split(content, re.compile(r"\s*[,;]\s*"))
    if not separators:
        inner = _read(content)
        return inner if (opening, closing) in (("(", ")"), ("[", "]")) else None
    items = _read_all(parts)
    if items is None:
        return None
    square = opening == "[" or closing == "]"
    if len(items) == 2 and square:
        return Interval(items[0], items[1], opening == "(", closing == ")")
    if (opening, closing) in (("(", ")"), ("[", "]"), (r"\langle", r"\rangle")):
        return Group("tuple", items)
    return None


def _read_set(content: str) -> Structure | None:
    parts, bars = split(content, re.compile(r"\s*[|:]\s*"))
    if len(bars) == 1:
        name = re.match(rf"({_NAME.pattern})(?:\s*\\in\s*\\mathbb\{{R\}})?$", parts[0])
        condition = _read(parts[1])
        if name is None or not isinstance(condition, Relation | Named | Group):
            return None
        return condition
    parts, _ = split(content, re.compile(r"\s*[,;]\s*"))
    items = _read_all(parts)
    return None if items is None else Group("set", items)


def _read_ratio(text: str) -> Structure | None:
    head, unit, factor = split_unit(text)
    parts, colons = split(head, re.compile(r"\s*:\s*"))
    if not colons or factor != 1:
        return None
    items = _read_all(parts)
    if items is None or not all(isinstance(item, Scalar | Dots) for item in items):
        return None
    if unit is not None and isinstance(items[-1], Scalar):
        items = (*items[:-1], replace(items[-1], unit=unit))
    return Group("ratio", items)


def _read_scalar(text: str) -> Structure | None:
    if _DOTS.fullmatch(text):
        return Dots()
    based = _BASED.fullmatch(text)
    if based is not None:
        return _read_based(based.group(1), based.group(2))
    head, unit, factor = split_unit(text)
    percent = head.endswith("%")
    if percent:
        head = head[:-1].strip()
    brackets = outer_brackets(head)
    if brackets is not None and head != text:
        inner = _read(head)
        if isinstance(inner, Group) and unit is not None:
            return inner
    expression = parse_expression(head)
    if expression is None and head != text and re.fullmatch(_WORD, head):
        value = number_in_words(head)
        expression = of_value(value) if value is not None else None
    if expression is None:
        return None
    if factor != 1:
        if expression.value is None:
            return None
        expression = of_value(expression.value * factor)
    letters = text.replace(" ", "") if re.fullmatch(r"[A-Za-z ]+", text) else ""
    return Scalar(expression, letters, unit, percent)


_BASES = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
          "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16}  # fmt: skip


def _read_based(digits: str, base: str) -> Structure | None:
    number = int(base) if base.isdigit() else _BASES.get(base)
    if number is None or not 2 <= number <= 36:
        return None
    try:
        value = Fraction(int(digits.replace(".", ""), number))
    except ValueError:
        return None
    plain = digits.upper().lstrip("0") or "0"
    if number == 10:
        return Scalar(of_value(Fraction(digits)))
    return Scalar(of_value(value), base=number, digits=plain)
