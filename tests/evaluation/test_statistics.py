"""Average@k of small matrices, computed by hand."""

import numpy as np
import pytest

from targetsft_jax.evaluation.statistics import average_at_k, table

CORRECT = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)


def test_shares_computed_by_hand():
    has_answer = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [0, 0, 1, 1]], bool)
    truncated = np.array([[0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    score = average_at_k(CORRECT, has_answer=has_answer, truncated=truncated)
    # Problems have 1/2, 1/4 and 0: mean 1/4, variance (1/16 + 0 + 1/16) / 2 = 1/16.
    assert score.average_at_k == 0.25
    assert score.standard_error == pytest.approx(0.25 / np.sqrt(3), rel=1e-12)
    assert score.pass_at_k == pytest.approx(2 / 3)
    assert score.no_answer == pytest.approx(3 / 12)
    assert score.truncated == pytest.approx(3 / 12)
    assert (score.problems, score.k) == (3, 4)


def test_the_error_is_over_problems_not_samples():
    """Repetitions of the same completions add no information about the problems."""
    once = average_at_k(CORRECT)
    many = average_at_k(np.repeat(CORRECT, 100, axis=1))
    assert many.standard_error == pytest.approx(once.standard_error)


def test_the_error_covers_the_truth():
    """About 95 % of the intervals contain the mean of the problems' distribution."""
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(400):
        chance = rng.beta(2, 2, size=(100, 1))
        score = average_at_k(rng.random((100, 4)) < chance)
        inside += abs(score.average_at_k - 0.5) < 1.96 * score.standard_error
    # 380 with a standard deviation of 4.4.
    assert abs(inside - 380) < 22


def test_one_problem_has_no_error():
    score = average_at_k(CORRECT[:1])
    assert np.isnan(score.standard_error) and score.average_at_k == 0.5
    assert score.no_answer == score.truncated == 0.0


@pytest.mark.parametrize(
    "correct, others, message",
    [
        (np.zeros((0, 4), bool), {}, r"correct has shape \(0, 4\)"),
        (np.zeros(4, bool), {}, r"expected \[problems, k\]"),
        (np.zeros((2, 2)), {}, "correct is float64; expected bool"),
        (CORRECT, {"has_answer": CORRECT[:2]}, r"has_answer has shape \(2, 4\)"),
        (CORRECT, {"truncated": CORRECT.T}, r"truncated has shape \(4, 3\)"),
        (CORRECT, {"has_answer": ~CORRECT}, "correct and states no answer"),
    ],
)
def test_impossible_verdicts_are_refused(correct, others, message):
    with pytest.raises(ValueError, match=message):
        average_at_k(correct, **others)


def test_table():
    lines = table(
        {"sft": average_at_k(CORRECT), "target_sft": average_at_k(~CORRECT)}
    ).split("\n")
    assert len({len(line) for line in lines}) == 1
    assert "Average@4" in lines[0] and "Pass@4" in lines[0]
    assert lines[2].startswith("| sft        | 25.00 ± 14.43")
    assert "75.00 ± 14.43" in lines[3] and "100.00" in lines[3]
    mixed = table({"a": average_at_k(CORRECT), "b": average_at_k(CORRECT[:, :2])})
    assert "a (k=4)" in mixed and "b (k=2)" in mixed and "Average@k" in mixed
