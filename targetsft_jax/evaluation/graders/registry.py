"""Graders by name, with one signature for all."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from targetsft_jax.evaluation.graders import answers, choices, maths
from targetsft_jax.evaluation.graders.grade import Grade, check_mode

Options = Mapping[str, str]


@dataclass(frozen=True)
class Grader:
    """A way to grade completions.

    Attributes:
        title: what it compares.
        grade: (output, gold, options, mode) -> verdict.
        check_gold: (gold, options) -> None; raises ValueError for a gold answer that
            the grader cannot compare with.
        needs_options: gold answers are letters of options.
    """

    title: str
    grade: Callable[[str, str, Options, str], Grade]
    check_gold: Callable[[str, Options], None]
    needs_options: bool = False


def _math(output: str, gold: str, options: Options, mode: str) -> Grade:
    return maths.grade_math(output, gold, mode=mode)


def _choice(output: str, gold: str, options: Options, mode: str) -> Grade:
    return choices.grade_choice(output, gold, options, mode=mode)


def _exact(output: str, gold: str, options: Options, mode: str) -> Grade:
    check_mode(mode)
    return answers.grade_exact(output, gold)


GRADERS = {
    "math": Grader(
        "mathematical expressions by value",
        _math,
        lambda gold, options: maths.check_gold(gold),
    ),
    "choice": Grader(
        "letters of options", _choice, choices.check_gold, needs_options=True
    ),
    "exact": Grader(
        "numbers by value, letters and words, anything else verbatim",
        _exact,
        lambda gold, options: answers.check_gold(gold),
    ),
}


def find_grader(name: str) -> Grader:
    """Find a grader by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in GRADERS:
        raise ValueError(f"grader is {name!r}; expected one of {', '.join(GRADERS)}")
    return GRADERS[name]
