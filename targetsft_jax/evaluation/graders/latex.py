r"""Rewrite the notations of one answer into one form of LaTeX.

Only notation changes, never a value: fonts, spaces, sizes of brackets, the forms of
fractions and roots, thousands separators, Unicode signs and plain text such as
`3*sqrt(13)`.
"""

import re
from collections.abc import Callable

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "﹣": "-", "×": r"\times ", "⋅": r"\cdot ",
    "·": r"\cdot ", "∙": r"\cdot ", "÷": "/", "∕": "/", "⁄": "/", "≤": r"\le ",
    "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "∪": r"\cup ",
    "∩": r"\cap ", "∈": r"\in ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ",
    "π": r"\pi ", "°": r"^\circ ", "º": r"^\circ ", "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
    "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}",
    "⅛": r"\frac{1}{8}", "¹": "^{1}", "²": "^{2}", "³": "^{3}", "⁴": "^{4}", "⁵": "^{5}",  # noqa: E501
    "⁶": "^{6}", "⁷": "^{7}", "⁸": "^{8}", "⁹": "^{9}", "⁰": "^{0}", "₀": "_{0}",
    "₁": "_{1}", "₂": "_{2}", "₃": "_{3}", "θ": r"\theta ", "α": r"\alpha ",
    "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "ω": r"\omega ",
    "φ": r"\phi ", "σ": r"\sigma ", "ρ": r"\rho ", "Δ": r"\Delta ", "∖": r"\setminus ",
    "…": r"\dots ", "⟨": r"\langle ", "⟩": r"\rangle ", "‘": "'", "’": "'", "′": "'",
    "“": "", "”": "", "（": "(", "）": ")", "，": ",", "：": ":", "\u00a0": " ",
    "\u202f": " ", "\u2009": " ", "\u200b": "", "￼": "",
}  # fmt: skip
_UNICODE_SIGNS = str.maketrans(_UNICODE)

_SPACES = r"(?:\\[,;:!> ]|\{,\}|\{\\,\}|~|\\thinspace\b|\\hspace\{[^{}]*\})"
_GROUPS = re.compile(rf"(?<![\d.])(\d{{1,3}})((?:{_SPACES}+\d{{3}})+)(?!\d)")
_BLANK_GROUPS = re.compile(r"(?<![\d.}\w])(\d{1,3})((?: \d{3})+)(?![\d\w])")

_FONT = r"(?:bf|it|sf|tt|rm|bb|cal|frak|scr|normal|up|md|sc)"
_RULES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = tuple(  # noqa: E501
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|strut)(?![a-zA-Z])", ""),  # noqa: E501
        (r"\\(?:big|Big|bigg|Bigg)[lrm]?(?![a-zA-Z])", ""),
        (r"\\m?(?:left|right|middle)\s*(?=[()\[\]|.<>/]|\\)", ""),
        (r"\\(?:hspace|vspace|phantom|hphantom|vphantom|label|tag)\*?\{[^{}]*\}", " "),
        (r"\\textcolor\{[^{}]*\}|\\color\{[^{}]*\}", ""),
        (r"\\(?:mathbf|mathit|mathsf|mathtt|boldsymbol|bm|mathcal|mathnormal)(?![a-zA-Z])", ""),  # noqa: E501
        (rf"\\text{_FONT}(?![a-zA-Z])|\\mbox(?![a-zA-Z])|\\hbox(?![a-zA-Z])|\\textnormal(?![a-zA-Z])|\\emph(?![a-zA-Z])", r"\\text"),  # noqa: E501
        (r"\\operatorname\*?\s*\{([a-zA-Z]+)\}", r"\\operatorname{\1}"),
        (r"\\mathrm\s*\{\s*([a-zA-Z])\s*\}", r"{\1}"),
        (r"\{\\rm\s+([^{}]*)\}|\\mathrm\s*\{([^{}]*)\}", r"\\text{\1\2}"),
        (r"\\text\s+\{", r"\\text{"),
        (r"\\text\s*\{\s*\}", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\[dt]binom(?![a-zA-Z])", r"\\binom"),
        (r"\{\s*([^{}]+?)\s*\\choose\s*([^{}]+?)\s*\}", r"\\binom{\1}{\2}"),
        (r"\\(?:leqslant|leqq|leq)(?![a-zA-Z])|<=", r"\\le "),
        (r"\\(?:geqslant|geqq|geq)(?![a-zA-Z])|>=", r"\\ge "),
        (r"\\neq(?![a-zA-Z])|\\not\s*=|!=", r"\\ne "),
        (r"\\lt(?![a-zA-Z])", "<"),
        (r"\\gt(?![a-zA-Z])", ">"),
        (r"\\(?:varnothing|empty)(?![a-zA-Z])", r"\\emptyset"),
        (r"\\infin(?![a-zA-Z])|\\infinity(?![a-zA-Z])|(?<![\\a-zA-Z])(?:infinity|infty|inf)(?![a-zA-Z])",  # noqa: E501
         r"\\infty "),
        (r"\\(?:backslash|smallsetminus)(?![a-zA-Z])", r"\\setminus "),
        (r"\\(?:ldots|cdots|dotsc|dotsb|dotso|hdots)(?![a-zA-Z])|\.\.\.", r"\\dots "),
        (r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])", "|"),
        (r"\\(?:lbrace)(?![a-zA-Z])", r"\\{"),
        (r"\\(?:rbrace)(?![a-zA-Z])", r"\\}"),
        (r"\\(?:lbrack)(?![a-zA-Z])", "["),
        (r"\\(?:rbrack)(?![a-zA-Z])", "]"),
        (r"\\(?:lparen)(?![a-zA-Z])", "("),
        (r"\\(?:rparen)(?![a-zA-Z])", ")"),
        (r"\\(?:varphi)(?![a-zA-Z])", r"\\phi"),
        (r"\\(?:varepsilon)(?![a-zA-Z])", r"\\epsilon"),
        (r"\\(?:vartheta)(?![a-zA-Z])", r"\\theta"),
        (r"\\(?:wedge)(?![a-zA-Z])", r"\\land "),
        (r"\\(?:vee)(?![a-zA-Z])", r"\\lor "),
        (r"\\(?:times|ast)(?![a-zA-Z])|(?<!\*)\*(?!\*)", r"\\cdot "),
        (r"\*\*", "^"),
        (r"\\div(?![a-zA-Z])", "/"),
        (r"\\(?:degree|degrees)(?![a-zA-Z])", r"^\\circ "),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*o(?![a-zA-Z])", r"^\\circ "),
        (r"\\circ(?![a-zA-Z])\s*", r"\\circ "),
        (r"\^\s*\{?\\prime\}?", "'"),
        (r"(?<!\\)\\(?:(?:quad|qquad|enspace|thinspace)(?![a-zA-Z])|[,;:>! ])|~", " "),
        (r"(?<!\\)\\n(?![a-zA-Z])", " "),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"(?<![\\a-zA-Z])sqrt\s*(?=[({\[])", r"\\sqrt"),
        (r"√\s*(?=[({])", r"\\sqrt"),
        (r"√\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])(sin|cos|tan|ln|log|exp)\s*(?=\()", r"\\\1"),
        (r"\\frac\s*\\pi\s*", r"\\frac{\\pi}"),
        (r"\\frac\s*([0-9a-zA-Z])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([0-9a-zA-Z])", r"\1{\2}"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\\pi)(?![a-zA-Z])", r"\1{\2}"),
        (r"\\binom\s*(\d)\s*(\d)", r"\\binom{\1}{\2}"),
        (r"\\sqrt\s*([0-9a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\sqrt\s*(\\pi)(?![a-zA-Z])", r"\\sqrt{\1}"),
        (r"\\overline\s*\{\s*([A-Z]{2,})\s*\}", r"\1"),
        (r"\\(?:angle|triangle|overrightarrow|vec|hat)\s*(?=[A-Z{])", ""),
        (r"\\%", "%"),
        (r"\\pounds(?![a-zA-Z])", "£"),
        (r"\\(?:euro|texteuro)(?![a-zA-Z])", "€"),
    )
)  # fmt: skip

_ROOT = re.compile(r"\\sqrt\s*(\[[^\[\]]*\])?\s*\(")
_POWER = re.compile(r"\^\s*(-?\d{2,}|-\d)(?![\d.])")
_PARENTHESIZED_POWER = re.compile(r"\^\s*\(")
_SCIENTIFIC = re.compile(
    r"(?<![a-zA-Z\d.\\])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d{1,4})(?![\d.a-zA-Z])"
)
_PLAIN_MIXED = re.compile(r"(?<![\d.^_{/])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])")
_TEXT_NUMBER = re.compile(r"\\text\s*\{\s*([-+]?[\d.,/]*\d%?)\s*\.?\s*\}")
_DELIMITERS = re.compile(r"^(?:\$\$?|\\\(|\\\[)|(?:\$\$?|\\\)|\\\])$")


def clean(answer: str) -> str:
    r"""Rewrite an answer into the one form of its notation.

    Examples: `\dfrac12` → `\frac{1}{2}`, `1{,}000` → `1000`, `x^10` → `x^{10}`,
    `\left[0,1\right)` → `[0,1)`, `3*sqrt(13)` → `3\cdot \sqrt{13}`.
    """
    text = answer.strip().translate(_UNICODE_SIGNS)
    for _ in range(2):
        text = _DELIMITERS.sub("", text.strip()).strip()
    text = re.sub(r"\*\*(?=[^*]+\*\*)([^*]+)\*\*", _bold, text)
    text = (
        re.sub(r"(?<!\\)\\\\(?=[a-zA-Z]{2})", r"\\", text)
        if "begin" not in text
        else text
    )
    text = re.sub(r"(?<!\\)\$", "", text)
    text = _GROUPS.sub(_joined, text)
    text = _TEXT_NUMBER.sub(r"\1", text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _parentheses_to_braces(text, _ROOT)
    text = _parentheses_to_braces(text, _PARENTHESIZED_POWER)
    text = _POWER.sub(r"^{\1}", text)
    text = _SCIENTIFIC.sub(r"\1\\cdot 10^{\2}", text)
    text = _PLAIN_MIXED.sub(r"\1\\frac{\2}{\3}", text)
    text = _BLANK_GROUPS.sub(_joined, text)
    text = re.sub(r"\s+", " ", text).strip()
    return _without_end(text)


def _without_end(text: str) -> str:
    """The text without punctuation at its end; `5!` keeps its factorial."""
    text = text.rstrip(" ,;:")
    if not text.endswith(r"\dots"):
        text = text.rstrip(".").rstrip(" ,;:")
    return text


def _bold(match: re.Match[str]) -> str:
    """Markdown's bold; `2**3**2` is a power."""
    before = match.string[: match.start()].rstrip()
    return match.group() if before[-1:].isalnum() else match.group(1)


def _joined(match: re.Match[str]) -> str:
    return re.sub(r"\D", "", match.group())


def _parentheses_to_braces(text: str, opening: re.Pattern[str]) -> str:
    r"""Replace the parentheses after a command by braces: `\sqrt(2)` → `\sqrt{2}`."""
    for _ in range(20):
        match = opening.search(text)
        if match is None:
            break
        end = _closing(text, match.end() - 1)
        if end is None:
            break
        head = text[match.start() : match.end() - 1]
        text = f"{text[: match.start()]}{head.rstrip()}{{{text[match.end() : end]}}}{text[end + 1 :]}"  # noqa: E501
    return text


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return None


_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+|\s+|.", re.DOTALL)


def tokens(text: str) -> list[str]:
    """Tokens of an answer, without white space: equal lists are equal notation."""
    return [token for token in _TOKEN.findall(text) if not token.isspace()]


_OPEN = {"(": ")", "[": "]", "{": "}", r"\{": r"\}", r"\langle": r"\rangle"}
_CLOSE = frozenset(_OPEN.values())


def is_balanced(text: str) -> bool:
    """True if brackets are closed; `[0,1)` is balanced, `{1` is not."""
    stack: list[str] = []
    for token in _TOKEN.findall(text):
        if token in _OPEN:
            stack.append(token)
        elif token in _CLOSE:
            if not stack:
                return False
            opening = stack.pop()
            round_or_square = {opening, token} <= {"(", "[", ")", "]"}
            if _OPEN[opening] != token and not round_or_square:
                return False
    return not stack


def split(text: str, separators: re.Pattern[str]) -> tuple[list[str], list[str]]:
    """Split a text at separators outside all brackets.

    Args:
        text: a cleaned answer.
        separators: matched where a token begins.

    Returns:
        parts: the texts between, stripped.
        separators: those matched, one fewer than the parts.
    """
    parts, matched, depth, start, position = [], [], 0, 0, 0
    while position < len(text):
        match = separators.match(text, position) if depth == 0 else None
        if match is not None and match.end() > position:
            parts.append(text[start:position].strip())
            matched.append(match.group().strip())
            start = position = match.end()
            continue
        token = _TOKEN.match(text, position)
        assert token is not None
        depth += (token.group() in _OPEN) - (token.group() in _CLOSE)
        position = token.end()
    parts.append(text[start:].strip())
    return parts, matched


def outer_brackets(text: str) -> tuple[str, str, str] | None:
    """Opening bracket, content and closing bracket of a text that they enclose."""
    found = [t for t in _TOKEN.findall(text) if not t.isspace()]
    if len(found) < 2 or found[0] not in _OPEN or found[-1] not in _CLOSE:
        return None
    depth = 0
    for i, token in enumerate(found):
        depth += (token in _OPEN) - (token in _CLOSE)
        if depth == 0 and i < len(found) - 1:
            return None
    stripped = text.strip()
    return found[0], stripped[len(found[0]) : -len(found[-1])].strip(), found[-1]
