"""Hostile completions: at most one time-out each, and no answer of others lost."""

import pytest

from targetsft_jax.evaluation.grading import GradingRequest, grade_all

HOSTILE = {
    "power": r"\boxed{9**9**9}",
    "tower": r"\boxed{2003^{2002^{2001}}}",
    "unclosed braces": r"\boxed{" + "{" * 10**6,
    "closed braces": r"\boxed{" + "{" * 500_000 + "}" * 500_001,
    "nul": "\\boxed{\x0043\x00}",
    "fractions": r"\boxed{" + r"\frac{1}{" * 10**5 + "1" + "}" * (10**5 + 1),
    "roots": r"\boxed{" + r"\sqrt{" * 60 + "2" + "}" * 61,
    "factorial": r"\boxed{999999999!}",
    "factorials": r"\boxed{100!!!!}",
    "binomial": r"\boxed{\binom{10^{9}}{5\cdot10^8}}",
    "sum": r"\boxed{\sum_{k=1}^{10^9} \sin k}",
    "boxes": r"\boxed" * 200_000,
    "phrases": "the answer is " * 70_000,
    "stars": "**" * 500_000,
    "marks": "####" * 250_000,
}


@pytest.mark.parametrize("mode", ["strict", "reference"])
def test_hostile_answers(mode, count):
    requests = []
    for output in HOSTILE.values():
        requests.append(GradingRequest("math", output, "42", mode=mode))
        requests.append(GradingRequest("math", r"\boxed{42}", "42", mode=mode))
    grades = grade_all(requests, workers=2, time_limit=5)
    assert all(grade.correct for grade in grades[1::2])
    for name, grade in zip(HOSTILE, grades[::2]):
        assert not grade.correct, name
        count("hostile answer", grade.how)
    assert sum(grade.how in ("timeout", "error") for grade in grades[::2]) <= 2
