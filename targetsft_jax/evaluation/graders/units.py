r"""Units and numerals in words: `5 \text{ cm}^2`, `\$18.90`, `twenty-one`, `5 million`.

An answer without a unit equals one with any unit, since gold answers often leave it
out; two different units differ, and none is converted into another.
"""

import re
from fractions import Fraction

_SYNONYMS = {
    "cm": "centimeter centimetre centimeters centimetres cms",
    "mm": "millimeter millimetre millimeters millimetres",
    "m": "meter metre meters metres",
    "km": "kilometer kilometre kilometers kilometres kms",
    "in": "inch inches",
    "ft": "foot feet",
    "yd": "yard yards yds",
    "mi": "mile miles",
    "g": "gram grams gm",
    "kg": "kilogram kilograms kilo kilos kgs",
    "mg": "milligram milligrams",
    "lb": "pound pounds lbs",
    "oz": "ounce ounces",
    "l": "liter litre liters litres",
    "ml": "milliliter millilitre milliliters millilitres",
    "gal": "gallon gallons",
    "s": "second seconds sec secs",
    "min": "minute minutes mins",
    "h": "hour hours hr hrs",
    "day": "days",
    "week": "weeks",
    "month": "months",
    "year": "years yr yrs",
    "deg": "degree degrees",
    "rad": "radian radians",
    "mph": "miles/hour mi/h",
    "km/h": "kmh kph kmph kilometers/hour",
    "m/s": "meters/second metres/second mps",
    "$": "dollar dollars usd",
    "cent": "cents ¢",
    "£": "gbp",
    "€": "euro euros eur",
    "unit": "units",
    "n": "newton newtons",
    "j": "joule joules",
    "w": "watt watts",
    "v": "volt volts",
    "pm": "p.m. p.m",
    "am": "a.m. a.m",
}
_CANONICAL = {
    word: unit for unit, words in _SYNONYMS.items() for word in (unit, *words.split())
}
_KNOWN_BARE = frozenset(word for word in _CANONICAL if len(word) > 1 and word.isalpha())
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}

_SCALES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_NUMERALS = {
    word: value
    for value, word in enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen"
        " fourteen fifteen sixteen seventeen eighteen nineteen".split()
    )
}
_TENS = {
    word: 10 * (i + 2)
    for i, word in enumerate(
        "twenty thirty forty fifty sixty seventy eighty ninety".split()
    )
}
_FRACTIONS = {"half": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5}

_NO_UNIT = frozenset(
    "is are not or and if when where but except than least most approximately about"
    " mod modulo no none plus minus times for from to with without between only either"
    " neither nor all any some other otherwise more less over under east west north"
    " south sin cos tan sec csc cot log ln exp max min mod gcd lcm pi sqrt frac then so"
    " because since wait therefore thus wrong false true".split()
)
"""Words that make a text after a number more than its unit."""

_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_TAIL = re.compile(
    r"(?P<unit>(?:\s*(?:/|\\cdot|per)?\s*\\text\s*\{[^{}]*\}"
    r"(?:\s*\^\s*\{?\s*-?\d\s*\}?)?)+)\s*$"
)
_BARE_TAIL = re.compile(
    r"(?<=[\d}!)])(?:\s+|(?<=\d))(?P<unit>[a-zA-Z][a-zA-Z./ ^0-9]*)$"
)
_DEGREES = re.compile(
    r"\^\s*\{?\s*\\circ\s*\}?\s*(?P<scale>[CFK]|\\text\s*\{\s*[CFK]\s*\})?\s*$"
)
_CURRENCY = re.compile(r"^(-?)\s*(?:\\\$|\\text\s*\{\s*\\?\$\s*\}|([£€]))\s*")


def split_unit(text: str) -> tuple[str, str | None, Fraction]:
    r"""Split a cleaned answer into its number, its unit, and a scale in words.

    Examples: `5 \text{ cm}^2` → ("5", "cm^2", 1), `\$3` → ("3", "$", 1),
    `5 \text{ million}` → ("5", None, 1000000), `5 \text{ or } 6` → (the same, None, 1).
    """
    unit = None
    currency = _CURRENCY.match(text)
    if currency is not None:
        unit = currency.group(2) or "$"
        text = currency.group(1) + text[currency.end() :]
    degrees = _DEGREES.search(text)
    if degrees is not None and degrees.start() > 0:
        scale = re.sub(r"\\text|[{}\s]", "", degrees.group("scale") or "")
        return text[: degrees.start()].strip(), f"deg{scale.lower()}", Fraction(1)
    head, words = _tail(text)
    if words is None:
        return text, unit, Fraction(1)
    factor = Fraction(1)
    rest = words.split()
    while rest and rest[0].lower() in _SCALES:
        factor *= _SCALES[rest.pop(0).lower()]
    if rest and rest[0].lower() == "of":
        rest = rest[1:]
    tail = canonical_unit(" ".join(rest))
    if tail in ("percent", "percents", "percentage"):
        return head + "%", None, factor
    return head, tail or unit, factor


def canonical_unit(words: str) -> str | None:
    """The short name of a unit: "square centimeters" → "cm^2", "Apples" → "apple"."""
    text = words.lower().replace("\\", "").strip(" .")
    text = re.sub(r"\s*\bper\b\s*|\s*/\s*(?:an?\s+)?", "/", text)
    power, names = 1, []
    for word in text.replace("^", " ^").split():
        match = re.fullmatch(r"\^\{?(-?\d)\}?", word)
        if match is not None:
            power = int(match.group(1))
        elif word in _POWERS:
            power = _POWERS[word]
        else:
            names.append("/".join(_canonical_word(part) for part in word.split("/")))
    name = " ".join(names)
    name = _CANONICAL.get(name, name)
    return (f"{name}^{power}" if power != 1 else name) or None


def _canonical_word(word: str) -> str:
    if word in _CANONICAL:
        return _CANONICAL[word]
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def _tail(text: str) -> tuple[str, str | None]:
    """The text before the words at its end, and these; None unless they are a unit."""
    match = _TAIL.search(text)
    if match is not None and match.start() > 0:
        words = _TEXT.sub(r" \1 ", match.group("unit")).replace(r"\cdot", " ")
        head = text[: match.start()].strip()
        return (head, words) if head and _is_unit(words) else (text, None)
    match = _BARE_TAIL.search(text)
    if match is not None:
        words = match.group("unit")
        names = re.findall(r"[a-zA-Z]+", words)
        head = text[: match.start()].strip()
        plain = re.fullmatch(r"[-+]?[\d.,/:]+|.*\\frac\{\d+\}\{\d+\}|.*%", head)
        known = all(name.lower() in _KNOWN_BARE for name in names if len(name) > 1)
        prose = text[match.start() : match.start("unit")] != "" and all(
            len(name) > 2 or name.lower() in _KNOWN_BARE or name in ("of", "per")
            for name in names
        )
        if (
            plain
            and (
                (known and len(names[0]) > 1)
                or prose
                or words.lower() in _CANONICAL.values()
                and "/" in words
            )
            and _is_unit(words)
        ):
            return head, words
    return text, None


def _is_unit(words: str) -> bool:
    names = re.findall(r"[a-zA-Z]+", words.lower())
    return len(names) <= 5 and not (set(names) & _NO_UNIT - {"min"})


def number_in_words(words: str) -> Fraction | None:
    """Value of a numeral: "six", "twenty-one", "two hundred five", "one half"."""
    names = words.lower().replace("-", " ").split()
    names = [name for name in names if name != "and"]
    if not names or len(names) > 8:
        return None
    if len(names) == 2 and names[1].rstrip("s") in _FRACTIONS:
        count = _NUMERALS.get(names[0], 1 if names[0] == "a" else None)
        return (
            None if count is None else Fraction(count, _FRACTIONS[names[1].rstrip("s")])
        )
    total, current, previous = 0, 0, ""
    for name in names:
        if name in _NUMERALS:
            if previous and previous not in _SCALES and previous not in _TENS:
                return None
            if previous in _TENS and not 0 < _NUMERALS[name] < 10:
                return None
            current += _NUMERALS[name]
        elif name in _TENS:
            if previous and previous not in _SCALES:
                return None
            current += _TENS[name]
        elif name == "hundred" and previous in _NUMERALS:
            current *= 100
        elif name in _SCALES and name != "hundred" and previous:
            total += current * _SCALES[name]
            current = 0
        else:
            return None
        previous = name
    return Fraction(total + current)
