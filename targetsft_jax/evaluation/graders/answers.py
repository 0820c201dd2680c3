"""Strict grader: compares numbers by value, letters and words ignoring case.

A completion states its answer after its last `####` or in its last `\\boxed{…}`; one
without an answer is wrong. Any other answer must match verbatim, up to white space.
"""

import re
from fractions import Fraction

from targetsft_jax.data.boxed import last_boxed
from targetsft_jax.evaluation.graders.grade import Grade

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_WORD = re.compile(r"[A-Za-z]|yes|no|maybe|true|false", re.IGNORECASE)
_MARK = "####"


def extract_answer(text: str) -> str | None:
    """Extract the stated answer of a completion, stripped; None if there is none.

    It is the rest of the line after the last `####`, or the content of the last
    `\\boxed{…}` with balanced braces, whichever is later: in long solutions `####`
    also begins headings.
    """
    return extract(text)[0]


def is_correct(text: str, answer: str) -> bool:
    """True if the stated answer of a completion equals the gold answer.

    Args:
        text: the completion.
        answer: the gold answer, or a worked solution that states it.

    Raises:
        ValueError: the gold answer is empty.
    """
    return grade_exact(text, answer).correct


def grade_exact(text: str, answer: str) -> Grade:
    """Compare the stated answer of a completion with the gold answer.

    Args:
        text: the completion.
        answer: the gold answer, or a worked solution that states it.

    Raises:
        ValueError: the gold answer is empty.
    """
    check_gold(answer)
    gold = extract_answer(answer) or answer.strip()
    stated, how = extract(text)
    correct = stated is not None and _normalized(stated) == _normalized(gold)
    return Grade(correct, stated, how)


def check_gold(answer: str) -> None:
    """Raise ValueError if the gold answer is empty."""
    if not (extract_answer(answer) or answer.strip()):
        raise ValueError(
            "the gold answer is empty; check the field that it is read from"
        )


def extract(text: str) -> tuple[str | None, str]:
    """The stated answer and its origin, as `Grade.how` names it."""
    boxed = last_boxed(text)
    mark = text.rfind(_MARK)
    if mark > (boxed.start if boxed else -1):
        line = text[mark + len(_MARK) :].lstrip(" \t").partition("\n")[0]
        if line.strip():
            return line.strip(), "marker"
    answer = boxed.content.strip() if boxed else ""
    return (answer, "boxed") if answer else (None, "no answer")


def _normalized(answer: str) -> Fraction | str:
    answer = " ".join(answer.split())
    number = _THOUSANDS.sub("", answer)
    if _NUMBER.fullmatch(number):
        return Fraction(number)
    return answer.casefold() if _WORD.fullmatch(answer) else answer
