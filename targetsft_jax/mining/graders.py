"""Verdicts on a model's answers, many at a time."""

from collections.abc import Sequence

from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.grading import GradingRequest, grade_answers

GRADERS = ("exact", "math")
"""Graders of problems without options."""

_FAULTS = ("timeout", "error")


def verdicts(grader: str, answers: Sequence[tuple[Problem, str]]) -> list[bool]:
    """Grade answers; equal ones once. An answer that cannot be graded counts as wrong.

    Args:
        grader: one of `GRADERS`.
        answers: problems with the texts of answers.
    """
    keys = [(problem.answer, text) for problem, text in answers]
    distinct = list(dict.fromkeys(keys))
    requests = [GradingRequest(grader, text, gold) for gold, text in distinct]
    grades = grade_answers(requests)
    faults = sum(grade.how in _FAULTS for grade in grades)
    if faults:
        print(f"{faults:,} answers could not be graded in time and count as wrong")
    correct = {key: grade.correct for key, grade in zip(distinct, grades)}
    return [correct[key] for key in keys]
