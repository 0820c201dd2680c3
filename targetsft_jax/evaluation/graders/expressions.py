r"""Parse one expression with math-verify's grammar, and compare two by value.

A parse counts only if it consumed the expression: all tokens, no symbol lost, no
decimal rounded. Constants are compared exactly if they are rational, otherwise with a
relative tolerance of 1e-40, so that 1/2004! differs from 1/2006!. Expressions with
symbols are equal if they are so at several points of either sign.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

from targetsft_jax.evaluation.graders.exact_value import ExactValue
from targetsft_jax.evaluation.graders.latex import outer_brackets

_RELATIVE_TOLERANCE = "1e-40"
_DIGITS = 50
_MORE_DIGITS = 700
"""Digits of a second evaluation of constants that agree in the first."""

_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)|(?<![\d.])(\d+)\.(?!\d)")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d*)\\overline\{(\d+)\}")
_ADJACENT = re.compile(r"[\d.]\s+[\d.]|\d\s*\{\\frac|\.\s*\.")
_SUBSCRIPT = re.compile(r"_\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\[a-zA-Z]+|.)")
_FORBIDDEN = re.compile(
    r"\\(?:gcd|lcm|mod|bmod|pmod|dots|to|Rightarrow|implies|iff|text|equiv|sim|cong"
    r"|perp|parallel|int|iint|oint|lim|begin|end|operatorname|cup|cap|pm|mp|in)"
    r"(?![a-zA-Z])|[=<>;:?&#@$\"`]|,|!!"
    r"|\^\s*(?:\{[^{}]*\}|\w)\s*\^"
)
_FUNCTIONS = frozenset(
    "sin cos tan sec csc cot arcsin arccos arctan sinh cosh tanh ln log exp".split()
)
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_POINTS = (
    "0.7390851",
    "-1.3247179",
    "2.2360680",
    "-0.5671432",
    "1.6180340",
    "3.3598856",
)
_MIN_POINTS = 2


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Attributes:
        node: sympy's tree, unevaluated.
        value: its exact value; None if it is not rational.
        names: names of its symbols.
    """

    node: Any
    value: Fraction | None
    names: frozenset[str]


@lru_cache(maxsize=512)
def parse_expression(text: str) -> Expression | None:
    r"""Parse a cleaned expression; None unless the parse consumed all of it.

    Args:
        text: LaTeX as `clean` returns it, without units, lists and relations.
    """
    number = _plain_number(text)
    if number is not None:
        return Expression(None, number, frozenset())
    text = _renamed_subscripts(text)
    text = _REPEATING.sub(_repeating_fraction, text)
    if not text or _FORBIDDEN.search(text) or _ADJACENT.search(text):
        return None
    text = _DECIMAL.sub(_exact_fraction, text)
    brackets = outer_brackets(text)
    if brackets is not None and brackets[0] == "{":
        text = brackets[1]
    node = _parse(text)
    if node is None:
        return None
    size = ExactValue()
    value = size.value(node)
    if size.too_big:
        return None
    if not _consumed(text, _names(node)):
        return None
    node = _with_imaginary_unit(node)
    return Expression(
        node, value, frozenset(symbol.name for symbol in node.free_symbols)
    )


def equal(a: Expression, b: Expression) -> bool:
    """True if two expressions have the same value, for all values of their symbols."""
    if a.value is not None and b.value is not None:
        return a.value == b.value
    if a.node is not None and a.node == b.node:
        return True
    left, right = _node(a), _node(b)
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return _equal_constants(left, right)
    return _ratios(left, right, symbols) == "one"


def proportional(a: Expression, b: Expression, *, positive: bool) -> bool:
    """True if a = c·b for a constant c ≠ 0, which is above 0 if `positive`."""
    left, right = _node(a), _node(b)
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    if not symbols:
        return False
    kind = _ratios(left, right, symbols)
    return kind in ("one", "positive") or (kind == "negative" and not positive)


def numeric(a: Expression) -> Any:
    """Real value of a constant as an mpmath number of 50 digits; None for others."""
    import mpmath

    if a.names:
        return None
    infinite = {"oo": "inf", "-oo": "-inf"}.get(str(a.node))
    if infinite is not None:
        return mpmath.mpf(infinite)
    value = _evaluate(_node(a), {}, _DIGITS)
    if value is None:
        return None
    with mpmath.workdps(_DIGITS):
        if abs(mpmath.im(value)) > mpmath.mpf(10) ** -40 * (1 + abs(value)):
            return None
        return mpmath.re(value)


def difference(a: Expression, b: Expression) -> Expression:
    """The expression a − b."""
    from sympy import Add, Mul

    node = Add(_node(a), Mul(-1, _node(b), evaluate=False), evaluate=False)
    return Expression(node, None, a.names | b.names)


def product(value: Fraction, factor: Expression) -> Expression:
    """The expression value · factor."""
    from sympy import Mul, Rational

    number = Rational(value.numerator, value.denominator)
    return Expression(Mul(number, _node(factor)), None, factor.names)


def is_symbol(expression: Expression) -> bool:
    """True if an expression is one symbol alone."""
    return expression.node is not None and bool(expression.node.is_Symbol)


def symbol(name: str) -> Expression:
    """The expression of a symbol, real."""
    from sympy import Symbol

    return Expression(Symbol(name, real=True), None, frozenset((name,)))


def of_value(value: Fraction) -> Expression:
    """The expression of a rational number."""
    return Expression(None, value, frozenset())


def _node(expression: Expression) -> Any:
    from sympy import Rational

    if expression.node is None or expression.value is not None:
        assert expression.value is not None
        return Rational(expression.value.numerator, expression.value.denominator)
    return expression.node


def _plain_number(text: str) -> Fraction | None:
    match = re.fullmatch(
        r"(?P<sign>[-+]?)\s*(?:(?P<number>\d+(?:\.\d*)?|\.\d+)"
        r"(?:\s*/\s*(?P<divisor>\d+))?"
        r"|\\frac\{(?P<top>-?\d+)\}\{(?P<bottom>-?\d+)\})",
        text,
    )
    if match is None:
        return None
    if match.group("number") is not None:
        value = Fraction(match.group("number").rstrip(".") or "0")
        divisor = int(match.group("divisor") or 1)
    else:
        value, divisor = Fraction(int(match.group("top"))), int(match.group("bottom"))
    if divisor == 0:
        return None
    return (-value if match.group("sign") == "-" else value) / divisor


def _exact_fraction(match: re.Match[str]) -> str:
    if match.group(3) is not None:
        return match.group(3)
    whole, decimals = match.group(1), match.group(2)
    value = Fraction(f"{whole or '0'}.{decimals}")
    return f"{{\\frac{{{value.numerator}}}{{{value.denominator}}}}}"


def _repeating_fraction(match: re.Match[str]) -> str:
    whole, fixed, period = match.groups()
    head = Fraction(f"{whole or '0'}.{fixed or '0'}")
    value = head + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return f"{{\\frac{{{value.numerator}}}{{{value.denominator}}}}}"


def _renamed_subscripts(text: str) -> str:
    r"""Write subscripts in a form that the grammar knows: `x_{\max}` → `x_{max}`.

    Bases of logarithms and bounds of sums keep their subscripts.
    """

    def rename(match: re.Match[str]) -> str:
        before = match.string[: match.start()].rstrip()
        command = re.search(r"\\([a-zA-Z]+)$", before)
        if command and command.group(1) in (
            "log",
            "sum",
            "prod",
            "lim",
            "int",
            "binom",
        ):
            bounds = match.group(1)
            return match.group() if bounds[0] in "{\\" else f"_{{{bounds}}}"
        content = re.sub(r"\\(?:text|mathrm|rm)|[{}\\\s]", "", match.group(1))
        content = re.sub(r"[^a-zA-Z0-9]", "p", content)
        return f"_{{{content}}}" if content else ""

    return _SUBSCRIPT.sub(rename, text)


def _parse(text: str) -> Any:
    """Sympy's tree of a text, or None."""
    from antlr4 import Token
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, _Latex2Sympy
    from sympy import Basic, MatrixBase, Set, Tuple
    from sympy.core.relational import Relational

    converter = _Latex2Sympy(
        is_real=True, config=ConversionConfig(lowercase_symbols=False)
    )
    parsers = []
    create = converter.create_parser

    def remember(latex: str) -> Any:
        parsers.append(create(latex))
        return parsers[-1]

    converter.create_parser = remember
    try:
        node = converter.parse(text)
        if parsers[-1].getTokenStream().LA(1) != Token.EOF:
            return None
    except RecursionError:
        return None
    except MemoryError:
        raise
    except Exception:
        # The grammar raises plain Exception, its conversions whatever sympy raises.
        return None
    if not isinstance(node, Basic) or isinstance(
        node, MatrixBase | Set | Tuple | Relational
    ):
        return None
    return node


def _names(node: Any) -> frozenset[str]:
    """Names of all symbols and unknown functions of a tree."""
    from sympy import Symbol
    from sympy.core.function import AppliedUndef

    symbols = {symbol.name for symbol in node.atoms(Symbol)}
    return frozenset(symbols | {f.func.__name__ for f in node.atoms(AppliedUndef)})


def _consumed(text: str, names: frozenset[str]) -> bool:
    """True if every letter of the text is in a symbol or a known function."""
    commands = _COMMAND.findall(text)
    letters = set(re.sub(r"\\[a-zA-Z]+|_\{[^{}]*\}|\\.", " ", text)) & set(_LETTERS)
    joined = "".join(names)
    bare = letters - {"e", "i", "E", "I", "d", "C", "P"}
    return all(letter in joined for letter in bare) and all(
        command in _KNOWN_COMMANDS or any(command in name for name in names)
        for command in commands
    )


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_KNOWN_COMMANDS = _FUNCTIONS | frozenset(
    "frac sqrt cdot pi binom infty sum prod lfloor rfloor lceil rceil max min overline"
    " bar log coth sech csch arccot arcsec arccsc arsinh arcosh artanh det bullet"
    " langle rangle".split()
)


def _with_imaginary_unit(node: Any) -> Any:
    from sympy import I, Symbol

    replaced = {
        symbol: I
        for symbol in node.free_symbols
        if isinstance(symbol, Symbol) and symbol.name == "i"
    }
    return node.xreplace(replaced) if replaced else node


def _evaluate(node: Any, point: dict[Any, Any], digits: int) -> Any:
    """Complex mpmath value of a tree at a point; None if it has none there."""
    import mpmath
    from sympy import nan, zoo

    try:
        value = node.evalf(digits, subs=point, maxn=4 * digits)
        if value.has(nan, zoo) or value.free_symbols:
            return None
        real, imaginary = value.as_real_imag()
        if not (real.is_number and imaginary.is_number):
            return None
        with mpmath.workdps(digits):
            number = mpmath.mpc(
                real._to_mpmath(4 * digits), imaginary._to_mpmath(4 * digits)
            )
            return number if mpmath.isfinite(number) else None
    except MemoryError:
        raise
    except Exception:
        # Sympy raises many kinds of errors where an expression has no value.
        return None


def _equal_constants(left: Any, right: Any) -> bool:
    import mpmath
    from sympy import oo

    if left in (oo, -oo) or right in (oo, -oo):
        return left == right
    for digits, tolerance in ((_DIGITS, _RELATIVE_TOLERANCE), (_MORE_DIGITS, "1e-650")):
        a, b = _evaluate(left, {}, digits), _evaluate(right, {}, digits)
        if a is None or b is None:
            return False
        with mpmath.workdps(digits):
            if abs(a - b) > mpmath.mpf(tolerance) * max(abs(a), abs(b)):
                return False
    return True


def _ratios(left: Any, right: Any, symbols: list[Any]) -> str:
    """Ratio of two expressions over several points.

    Returns:
        "one", "positive" or "negative" if it is the same at all points; "varies"
        otherwise, or where there are too few points at which both have a value.
    """
    import mpmath
    from sympy import Rational

    ratios: list[Any] = []
    for k in range(len(_POINTS)):
        point = {
            symbol: Rational(_POINTS[(k + 2 * j) % len(_POINTS)]) + Rational(j, 7)
            for j, symbol in enumerate(symbols)
        }
        a, b = (_evaluate(node, point, _DIGITS) for node in (left, right))
        with mpmath.workdps(_DIGITS):
            if a is None and b is None:
                continue
            if a is None or b is None:
                return "varies"
            tolerance = mpmath.mpf(_RELATIVE_TOLERANCE)
            if b == 0 or a == 0:
                if a != b:
                    return "varies"
                continue
            ratio = a / b
            if ratios and abs(ratio - ratios[0]) > tolerance * abs(ratio):
                return "varies"
            ratios.append(ratio)
    if len(ratios) < _MIN_POINTS:
        return "varies"
    with mpmath.workdps(_DIGITS):
        ratio = ratios[0]
        tolerance = mpmath.mpf(_RELATIVE_TOLERANCE)
        if abs(ratio - 1) <= tolerance:
            return "one"
        if abs(mpmath.im(ratio)) > tolerance * abs(ratio):
            return "varies"
        return "positive" if mpmath.re(ratio) > 0 else "negative"
