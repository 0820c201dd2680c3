r"""Find the last `\boxed{…}` of a text, with balanced braces."""

import re
from dataclasses import dataclass

_BOXED = "\\boxed"
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


@dataclass(frozen=True)
class Boxed:
    """Content of a box, and the position of its command in the text."""

    content: str
    start: int


def last_boxed(text: str, *, unbraced: bool = False) -> Boxed | None:
    r"""The last box whose braces close, or None.

    Escaped braces (`\{`) do not count.

    Args:
        text: a solution or a response.
        unbraced: also accept TeX's form without braces, `\boxed 2`: one word without
            the punctuation behind it.
    """
    start = text.rfind(_BOXED)
    while start >= 0:
        opening = start + len(_BOXED)
        following = text[opening : opening + 1]
        if unbraced and following == " ":
            words = text[opening:].split(maxsplit=1)
            if words:
                return Boxed(words[0].rstrip(".,$"), start)
        if following == "{":
            depth = 0
            for match in _BRACE.finditer(text, opening):
                depth += {"{": 1, "}": -1}.get(match.group(), 0)
                if depth == 0:
                    return Boxed(text[opening + 1 : match.start()], start)
        start = text.rfind(_BOXED, 0, start)
    return None
