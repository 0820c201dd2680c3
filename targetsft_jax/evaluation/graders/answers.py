"""Whether a response gives the right answer: strict, and short enough to check.

An answer counts when it is stated: after a last `####`, or in a last `\\boxed{…}`.
A response that states none is wrong. What is compared are plain numbers by value,
letters and words without regard to case, anything else as it is written.
"""

import re
from fractions import Fraction

from targetsft_jax.data.boxed import last_boxed

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_WORD = re.compile(r"[A-Za-z]|yes|no|maybe|true|false", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    """The answer a response states, stripped; None when it states none.

    It is the rest of the line after the last `####`, or the content of the last
    `\\boxed{…}` whose braces close, whichever stands later: in long solutions `####`
    also opens headings.
    """
    boxed = last_boxed(text)
    marked_at = text.rfind("####")
    if marked_at > (boxed.start if boxed else -1):
        line = text[marked_at + 4 :].lstrip(" \t").partition("\n")[0]
        # "#### \boxed{5}": the box is then the later mark, so it is not met here.
        if line.strip():
            return line.strip()
    return (boxed.content.strip() or None) if boxed else None


def is_correct(text: str, answer: str) -> bool:
    """Whether the response states this answer.

    Args:
        text: the response.
        answer: the gold answer, or a worked solution that states it.

    Raises:
        ValueError: the gold answer is empty.
    """
    gold = extract_answer(answer) or answer.strip()
    if not gold:
        raise ValueError("the gold answer is empty; check the field it is read from")
    stated = extract_answer(text)
    return stated is not None and _normal(stated) == _normal(gold)


def _normal(answer: str) -> Fraction | str:
    answer = " ".join(answer.split())
    number = _THOUSANDS.sub("", answer)
    if _NUMBER.fullmatch(number):
        return Fraction(number)
    return answer.casefold() if _WORD.fullmatch(answer) else answer
