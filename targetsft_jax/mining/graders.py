"""Graders of mined answers: verdicts of many completions at a time."""

from collections.abc import Callable, Sequence

from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.graders.answers import is_correct

Verdicts = Callable[[Sequence[tuple[Problem, str]]], list[bool]]
"""Problems with texts of completions -> a verdict for each."""


def _exact(completions: Sequence[tuple[Problem, str]]) -> list[bool]:
    return [is_correct(text, problem.answer) for problem, text in completions]


GRADERS: dict[str, Verdicts] = {"exact": _exact}
"""Verdicts by the name of the grader."""


def check_answers(grader: str, problems: Sequence[Problem]) -> None:
    """Check that a grader can use all gold answers, before anything is generated.

    Raises:
        ValueError: it cannot use one; names the problem.
    """
    for problem in problems:
        try:
            GRADERS[grader]([(problem, "")])
        except ValueError as error:
            raise ValueError(f"{problem.id}: {error}") from None
