"""Strict grader of multiple-choice answers: letters and texts of options."""

import re
from collections.abc import Mapping

from targetsft_jax.data.boxed import last_boxed
from targetsft_jax.evaluation.graders.grade import Grade, check_mode


def grade_choice(
    output: str, gold_letter: str, options: Mapping[str, str], *, mode: str = "strict"
) -> Grade:
    """Grade."""
    check_mode(mode)
    check_gold(gold_letter, options)
    boxed = last_boxed(output)
    if boxed:
        letter = boxed.content.strip("() .").upper()[:1]
        return Grade(letter == gold_letter.upper(), letter, "boxed")
    found = re.findall(r"answer(?: is|:)\s*\(?([A-Z])\b", output)
    if found:
        return Grade(found[-1] == gold_letter.upper(), found[-1], "statement")
    return Grade(False, None, "no answer")


def check_gold(gold_letter: str, options: Mapping[str, str]) -> None:
    """Raise ValueError unless the gold answer is the letter of an option."""
    if gold_letter not in options:
        raise ValueError(
            f"the gold answer is {gold_letter!r}; expected one of the letters of the"
            f" options, {', '.join(options) or 'of which there are none'}"
        )
