r"""Known verdicts that every worker process reproduces before its first answer.

A grader whose parser is missing or whose comparison always fails would score 0 without
an error. One that accepts everything would score 100.
"""

from collections.abc import Collection

from targetsft_jax.evaluation.graders.registry import find_grader

_OPTIONS = {"A": "Aspirin", "B": "Iron deficiency", "C": "Parvovirus B19 infection"}

_KNOWN: dict[str, tuple[tuple[str, str, bool], ...]] = {
    "math": (
        (r"so $\boxed{42}$", "42", True),
        (r"so $\boxed{41}$", "42", False),
        (r"\boxed{\frac{1}{2}}", "0.5", True),
        (r"\boxed{\frac{\sqrt{3}}{3}}", r"\frac{1}{\sqrt{3}}", True),
        (r"\boxed{x^2+2x+1}", "(x+1)^2", True),
        (r"\boxed{x^2+1}", "x^3+1", False),
        (r"\boxed{12345}", "54321", False),
        ("The answer is 42.", "42", True),
        ("", "42", False),
    ),
    "choice": (
        (r"\boxed{C}", "C", True),
        (r"\boxed{B}", "C", False),
        ("The answer is (A).", "A", True),
        ("The answer is (A).", "B", False),
        ("", "A", False),
    ),
    "exact": (
        ("#### 1,234", "1234", True),
        (r"\boxed{1235}", "1234", False),
        ("", "1234", False),
    ),
}
"""Completion, gold answer and verdict, the same in both modes."""


def check_canary(pairs: Collection[tuple[str, str]]) -> None:
    """Grade the known completions.

    Args:
        pairs: the graders in use, each with its mode.

    Raises:
        ValueError: there is no such grader or mode.
        RuntimeError: a verdict differs from the known one.
    """
    for name, mode in pairs:
        grader = find_grader(name)
        for output, gold, correct in _KNOWN[name]:
            grade = grader.grade(output, gold, _OPTIONS, mode)
            if grade.correct != correct:
                raise RuntimeError(
                    f"the grader {name} ({mode}) grades {output!r} as"
                    f" {grade.correct} ({grade.how}); expected {correct} for the gold"
                    f" answer {gold!r}: reinstall math-verify and its dependencies"
                )
