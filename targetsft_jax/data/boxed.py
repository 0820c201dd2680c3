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
    while start >= 0:
        opening = start + len(_BOXED)
        next_character = text[opening : opening + 1]
        if unbraced and next_character == " ":
            words = text[opening:].split(maxsplit=1)
            if words:
                return Boxed(words[0].rstrip(".,$"), start)
        if next_character == "{":
            depth = 0
            for match in _BRACE.finditer(text, opening):
                depth += {"{": 1, "}": -1}.get(match.group(), 0)
                if depth == 0:
                    return Boxed(text[opening + 1 : match.start()], start)
        start = text.rfind(_BOXED, 0, start)
    return None
