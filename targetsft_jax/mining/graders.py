"""Verdicts on a model's answers, many at a time."""

from collections.abc import Sequence

from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.graders.answers import is_correct
from targetsft_jax.evaluation.grading import GradingRequest, check_gold, grade_all

GRADERS = ("exact", "math")
"""Graders of problems without options."""

_FAULTS = ("timeout", "error")


def verdicts(grader: str, answers: Sequence[tuple[Problem, str]]) -> list[bool]:
    """Grade answers; equal ones once. An answer that cannot be graded counts as wrong.

    Args:
        grader: one of `GRADERS`.
        answers: problems with the texts of answers.
    """
    if grader == "exact":
        # Compares texts and plain numbers: no parser that would need its own process.
        return [is_correct(text, problem.answer) for problem, text in answers]
    keys = [(problem.answer, text) for problem, text in answers]
    distinct = list(dict.fromkeys(keys))
    grades = grade_all([GradingRequest(grader, text, gold) for gold, text in distinct])
    faults = sum(grade.how in _FAULTS for grade in grades)
    if faults:
        print(f"{faults:,} answers could not be graded in time and count as wrong")
    correct = {key: grade.correct for key, grade in zip(distinct, grades)}
    return [correct[key] for key in keys]


def check_answers(grader: str, problems: Sequence[Problem]) -> None:
    """Check that a grader can use all gold answers, before anything is generated.

    Raises:
        ValueError: it cannot use one; names the problem.
    """
    for problem in problems:
        try:
            check_gold(grader, problem.answer)
        except ValueError as error:
            raise ValueError(f"{problem.id}: {error}") from None
