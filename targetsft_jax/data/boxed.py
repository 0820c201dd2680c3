r"""Find the last `\boxed{…}` with balanced braces in a text."""

import re
from dataclasses import dataclass

_BOXED = "\\boxed"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Boxed:
    r"""A `\boxed{…}` in a text."""

    content: str
    """Text between the braces."""
    start: int
    r"""Index of `\boxed` in the text."""


def last_boxed(text: str, *, unbraced: bool = False) -> Boxed | None:
    r"""Find the last box with balanced braces; None if there is none.

    Escaped braces (`\{`) do not count.

    Args:
        text: a solution or a response.
        unbraced: also accept TeX's form without braces, `\boxed 2`: one word,
            without trailing punctuation.
    """
    start = text.rfind(_BOXED)
    ends = closing_braces(text) if start >= 0 else {}
    while start >= 0:
        opening = start + len(_BOXED)
        if unbraced and text[opening : opening + 1] == " ":
            words = text[opening:].split(maxsplit=1)
            if words:
                return Boxed(words[0].rstrip(".,$"), start)
        if opening in ends:
            return Boxed(text[opening + 1 : ends[opening]], start)
        start = text.rfind(_BOXED, 0, start)
    return None


def closing_braces(text: str) -> dict[int, int]:
    """Index of each balanced opening brace -> index of the one that closes it.

    One pass, so that a text of nothing but unclosed boxes takes linear time.
    """
    ends: dict[int, int] = {}
    open_braces: list[int] = []
    for match in _BRACE.finditer(text):
        if match.group() == "{":
            open_braces.append(match.start())
        elif match.group() == "}" and open_braces:
            ends[open_braces.pop()] = match.start()
    return ends
