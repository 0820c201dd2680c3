r"""Mathematical answers as published evaluations extract and compare them.

The rules of the lineage Qwen2.5-Math, DFT, Beyond-Log-Likelihood, their false matches
included: `12346` equals `12345`, `0.05` equals `5`, `[0,1]` equals `(0,1)`, units are
removed. Use it only for numbers that are compared with published tables.
"""

import re
from math import isclose

from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.graders.limits import is_too_long, readable_tail

_RELATIVE_TOLERANCE = 1e-4
_UNITS = (
    "east degree mph kmph ft m|square sq|m deg mile monkey prime ratio rd gm p|m lb tile"  # noqa: E501
    " per dm lt gain ab way west no|change men soldier pie bc excess st inches noon"
    " percent cent by gal kmh acre rise a|m th sq mark toy coin gallon profit yr women"
    " feet am pm hr cu|cm square are rupee rounds cubic cc mtr ohm number day hour"
    " minute min second man woman sec cube mt mp hectare more unit kg g month km m cm mm"  # noqa: E501
    " apple liter loss yard pure year increase decrease d less Surface litre metre meter"  # noqa: E501
    " inch point edge student children|ticket multiple pound meal digit sue s h t l c o"
).split()
_UNIT = re.compile(
    r"(^|\W)(?:"
    + "|".join(
        re.escape(u.replace("|", " ")) for u in sorted(_UNITS, key=len, reverse=True)
    )
    + r")s?($|\W)"
)
_NUMBERS = {w: str(i) for i, w in enumerate(
    "zero one two three four five six seven eight nine ten".split())}  # fmt: skip


def grade(output: str, gold: str) -> Grade:
    """Grade by the published rules.

    Raises:
        ValueError: the gold answer is empty.
    """
    if not gold.strip():
        raise ValueError(
            "the gold answer is empty; check the field that it is read from"
        )
    text = readable_tail(output)
    stated, how = extract(text)
    if stated is None:
        return Grade(False, None, "no answer")
    expected = extract(gold)[0] if "boxed" in gold else gold.strip().strip("$")
    expected = expected or gold
    if is_too_long(stated):
        return Grade(False, stated[:500], "too long")
    return Grade(equal(normalized(stated), normalized(expected)), stated[:500], how)


def extract(text: str) -> tuple[str | None, str]:
    """The answer that the published rules extract, and the rule that found it."""
    hopeful = text.split("final answer is $")
    if len(hopeful) > 1 and "$. I hope" in hopeful[1]:
        return hopeful[1].split("$. I hope", 1)[0].strip(), "statement"
    if "boxed" in text:
        return _boxed(text.rpartition("boxed")[2]), "boxed"
    for phrase in ("he answer is", "final answer is"):
        if phrase in text:
            return text.rpartition(phrase)[2].strip().lstrip(": "), "statement"
    numbers = re.findall(r"-?\d*\.?\d+", text.replace(",", ""))
    return (numbers[-1], "last number") if numbers else (None, "no answer")


def _boxed(rest: str) -> str:
    if not rest:
        return ""
    if rest[0] != "{":
        return rest.split("$")[0].strip()
    depth, content = 1, ""
    for character in rest[1:]:
        depth += (character == "{") - (character == "}")
        if depth == 0:
            break
        content += character
    return content


def normalized(text: str) -> str:
    """The answer in the published normal form."""
    text = text.split("\n")[0] if "\n" in text and "begin" not in text else text
    text = text.strip().replace("\n", "").rstrip(".").replace("\\!", "")
    text = re.sub(r"\\begin\{array\}\{.*?\}", r"\\begin{pmatrix}", text)
    text = text.replace("\\end{array}", "\\end{pmatrix}").replace("bmatrix", "pmatrix")
    text = text.replace("tfrac", "frac").replace("dfrac", "frac")
    text = (
        text.replace("\\neq", "\\ne").replace("\\leq", "\\le").replace("\\geq", "\\ge")
    )
    text = re.sub(r"\\left(?![a-z])|\\right(?![a-z])", "", text)
    text = text.replace("\\{", "{").replace("\\}", "}")
    trailing = re.sub(r"\\text\{.*?\}$", "", text).strip()
    text = trailing or text
    for _ in range(2):
        shorter = _UNIT.sub(r"\1\2", text)
        text = shorter or text
    text = text.replace("^{\\circ}", "").replace("^\\circ", "")
    text = (
        text.replace("\\$", "").replace("$", "").replace("\\(", "").replace("\\)", "")
    )
    text = _NUMBERS.get(text.strip().lower(), text)
    text = re.sub(r"\\text\{(.*?)\}", r"\1", text)
    text = re.sub(r"[xyz]\s*(?:=|\\in(?![a-z])|\\to(?![a-z]))\s*", "", text)
    text = text.replace("(-\\infty,\\infty)", "\\mathbb{R}")
    text = text.replace("\\%", "").replace("%", "")
    text = text.replace(" .", " 0.").replace("{.", "{0.")
    text = (
        re.sub(r"(\d),(?=\d{3})", r"\1", text)
        if re.fullmatch(r"[\d,.]+", text)
        else text
    )
    if "\\infty" not in text:
        text = text.replace("infinity", "\\infty")
    text = text.replace("and", "").replace("\\mathbf", "")
    text = re.sub(r"\\mbox\{.*?\}", "", text).replace("'", "").replace('"', "")
    if "j" in text and "i" not in text:
        text = text.replace("j", "i")
    text = re.sub(r"(\d+)\.0*([^\d])", r"\1\2", text)
    text = re.sub(r"(\d+)\.0*$", r"\1", text)
    text = "0" + text if text.startswith(".") else text
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left.strip()) <= 2:
        text = right
    text = re.sub(r"\\sqrt(\w+)", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac(\d)\{", r"\\frac{\1}{", text)
    match = re.fullmatch(r"(-?\d+)/(-?\d+)", text)
    return rf"\frac{{{match.group(1)}}}{{{match.group(2)}}}" if match else text


def equal(stated: str, gold: str) -> bool:
    """True if the published comparison accepts the answer."""
    if stated.strip().lower() == gold.strip().lower():
        return True
    if gold in tuple("ABCDE"):
        letters = re.findall(r"\b([A-E])\b", stated.upper())
        return bool(letters) and letters[-1] == gold
    a, b = _number(stated), _number(gold)
    if a is not None and b is not None:
        return any(
            isclose(a, x, rel_tol=_RELATIVE_TOLERANCE) for x in (b / 100, b, b * 100)
        )
    if not stated:
        return False
    bare = [re.sub(r"[\[\](){}]", "", side).lower() for side in (stated, gold)]
    if bare[0] == bare[1]:
        return True
    if all(re.match(r"(\(|\[).+(\)|\])", side) for side in (stated, gold)):
        parts = [side[1:-1].split(",") for side in (stated, gold)]
        if len(parts[0]) == len(parts[1]) and all(map(equal, *parts)):
            return True
    if all("pmatrix" in side for side in (stated, gold)):
        return _equal_matrices(stated, gold)
    if stated.count("=") == gold.count("=") == 1:
        sides = [_difference(side) for side in (stated, gold)]
        return _symbolic(sides[0], sides[1]) or _symbolic(f"-({sides[0]})", sides[1])
    for one, other in ((stated, gold), (gold, stated)):
        left, equals, right = one.partition("=")
        if (
            equals
            and one.count("=") == 1
            and len(left.strip()) <= 2
            and "=" not in other
        ):
            return equal(right, other)
    return _symbolic(stated, gold)


def _difference(equation: str) -> str:
    left, _, right = equation.partition("=")
    return f"{left}-({right})"


def _equal_matrices(stated: str, gold: str) -> bool:
    rows = []
    for side in (stated, gold):
        body = re.sub(r"\\(?:begin|end)\{pmatrix\}", "", side)
        rows.append([row.split("&") for row in body.split("\\\\") if row.strip()])
    return len(rows[0]) == len(rows[1]) and all(
        len(a) == len(b) and all(map(equal, a, b)) for a, b in zip(*rows)
    )


def _number(text: str) -> float | None:
    text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        return None


def _symbolic(stated: str, gold: str) -> bool:
    """Equality of the parsed expressions, or of their values to a relative 1e-4."""
    from targetsft_jax.evaluation.graders import expressions
    from targetsft_jax.evaluation.graders.latex import clean

    if any(mark in stated + gold for mark in ("\\infty", "\\mathrm", "{,}")):
        return False
    if stated[:1] == gold[:1] == "{" and stated[-1:] == gold[-1:] == "}":
        if set(stated[1:-1].split(",")) == set(gold[1:-1].split(",")):
            return True
    # The published parsers stop at a comma, and read 1\frac{1}{2} as a product.
    stated, gold = (
        re.sub(
            r"(\d)\\frac", r"\1\\cdot\\frac", re.sub(r"^([^(\[{,]+),.*", r"\1", side)
        )
        for side in (stated, gold)
    )
    a = expressions.parse_expression(clean(stated))
    b = expressions.parse_expression(clean(gold))
    if a is None or b is None:
        return False
    if expressions.equal(a, b):
        return True
    x, y = expressions.numeric(a), expressions.numeric(b)
    return (
        x is not None
        and y is not None
        and bool(isclose(x, y, rel_tol=_RELATIVE_TOLERANCE))
    )
