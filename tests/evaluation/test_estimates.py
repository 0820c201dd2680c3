"""Estimates against formulas by hand, enumeration, scipy and simulated truth."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from targetsft_jax.evaluation.estimates import (
    Estimate,
    average,
    holm,
    macro_average,
    majority_at_k,
    paired_difference,
    pass_at_k,
    sampling_error,
    smallest_visible_difference,
    verdict_matrix,
)

CORRECT = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)


def _draw(rng, problems, k, concentration=2.0):
    """Verdicts of problems whose chance of success is Beta-distributed."""
    return rng.random((problems, k)) < rng.beta(concentration, 2, size=(problems, 1))


def test_the_average_is_a_one_sample_t_interval():
    shares = CORRECT.mean(axis=1)
    expected = stats.ttest_1samp(shares, 0).confidence_interval()
    estimate = average(CORRECT)
    assert estimate.value == shares.mean() and estimate.problems == 4
    assert estimate.standard_error == pytest.approx(stats.sem(shares))
    # Student's interval leaves [0, 1] here.
    assert expected.low < 0 and expected.high > 0.99
    assert (estimate.low, estimate.high) == (0.0, min(1.0, expected.high))


def test_the_two_errors_cover_what_their_names_say():
    """Other problems, and other samples of the same problems, in 400 repetitions."""
    rng = np.random.default_rng(0)
    chances = rng.beta(2, 2, size=(60, 1))
    covered = {"problems": 0, "sampling": 0}
    for _ in range(400):
        new = average(_draw(rng, 60, 4))
        covered["problems"] += new.low <= 0.5 <= new.high
        same = rng.random((60, 4)) < chances
        error = sampling_error(same)
        covered["sampling"] += abs(same.mean() - chances.mean()) < 1.96 * error
    # 380 with a standard deviation of 4.4.
    assert all(abs(count - 380) < 18 for count in covered.values()), covered


def test_the_sampling_error_is_that_of_the_runs():
    """The usual estimate, sd over runs / √k, is the same on average, and noisier."""
    rng = np.random.default_rng(1)
    pairs = []
    for _ in range(300):
        correct = _draw(rng, 40, 8)
        runs = correct.mean(axis=0)
        pairs.append((sampling_error(correct) ** 2, runs.var(ddof=1) / 8))
    ours, usual = np.array(pairs).T
    assert ours.mean() == pytest.approx(usual.mean(), rel=0.1)
    assert ours.std() < usual.std() / 3
    assert math.isnan(sampling_error(CORRECT[:, :1]))


def test_a_paired_difference_is_a_paired_t_test_and_narrower():
    rng = np.random.default_rng(2)
    chances = rng.beta(1, 1, size=(200, 1))
    first = rng.random((200, 4)) < np.minimum(1, chances + 0.05)
    second = rng.random((200, 8)) < chances
    expected = stats.ttest_rel(first.mean(1), second.mean(1)).confidence_interval()
    paired = paired_difference(first, second)
    assert (paired.low, paired.high) == pytest.approx((expected.low, expected.high))
    unpaired = math.hypot(average(first).standard_error, average(second).standard_error)
    assert paired.standard_error < 0.8 * unpaired
    with pytest.raises(ValueError, match="200 and 10 problems; expected the same"):
        paired_difference(first, second[:10])


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(k):
    choices = list(itertools.combinations(range(4), k))
    expected = np.mean([CORRECT[:, list(c)].any(axis=1) for c in choices])
    assert pass_at_k(CORRECT, k) == pytest.approx(expected)
    for wrong in (0, 5):
        with pytest.raises(ValueError, match=f"k is {wrong}; expected 1 to 4"):
            pass_at_k(CORRECT, wrong)


def test_majority_votes_by_hand():
    answers = np.array([[7, 7, 3, -1], [7, 3, -1, -1], [-1, -1, -1, -1], [3, 3, 7, 7]])
    correct = answers == 7
    # Majority right; a tie of right and wrong; no answer; a tie again.
    assert majority_at_k(answers, correct) == (1 + 0.5 + 0 + 0.5) / 4
    with pytest.raises(ValueError, match="answer 7 is both correct and wrong"):
        majority_at_k(answers, np.array([[1, 0, 0, 0]] * 4, bool))
    with pytest.raises(ValueError, match=r"answers have shape \(2, 4\)"):
        majority_at_k(answers[:2], correct)


def test_a_macro_average_weighs_sets_equally():
    small = Estimate(0.2, 0.04, 0.1, 0.3, 30)
    large = Estimate(0.6, 0.03, 0.5, 0.7, 500)
    macro = macro_average([small, large])
    assert macro.value == pytest.approx(0.4) and macro.problems == 530
    assert macro.standard_error == pytest.approx(0.025)
    assert macro.high - macro.value == pytest.approx(1.96 * 0.025, rel=1e-3)
    with pytest.raises(ValueError, match="no sets"):
        macro_average([])


def test_the_smallest_visible_difference_is_found_as_often_as_stated():
    assert smallest_visible_difference(1.0) == pytest.approx(2.80, abs=0.005)
    rng = np.random.default_rng(3)
    true = smallest_visible_difference(1.0)
    found = np.abs(rng.normal(true, 1, 20_000)) > 1.96
    assert found.mean() == pytest.approx(0.8, abs=0.01)


def test_holm_as_in_its_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_a_matrix_with_holes_is_refused():
    verdicts = {(p, n): p == "a" for p in ("a", "b") for n in range(3)}
    np.testing.assert_array_equal(verdict_matrix(verdicts), [[True] * 3, [False] * 3])
    del verdicts["b", 1]
    with pytest.raises(ValueError, match="problem b has no verdict for sample 1, and"):
        verdict_matrix(verdicts)
    with pytest.raises(ValueError, match="no verdicts"):
        verdict_matrix({})


def test_a_single_problem_has_no_interval():
    estimate = average(CORRECT[:1])
    assert estimate.value == 0.5 and math.isnan(estimate.standard_error)
    assert math.isnan(estimate.low) and math.isnan(estimate.high)


@pytest.mark.parametrize("wrong", [CORRECT.astype(float), CORRECT[0], CORRECT[:0]])
def test_other_arrays_are_refused(wrong):
    for function in (average, sampling_error, lambda x: pass_at_k(x, 1)):
        with pytest.raises(ValueError, match=r"expected bool \[problems, samples\]"):
            function(wrong)


def test_equal_verdicts_have_an_interval():
    """Clopper and Pearson: 0 of 3 problems has the upper bound 1 − 0.025^(1/3)."""
    from scipy.stats import binomtest

    for problems in (2, 3, 64):
        for value in (False, True):
            estimate = average(np.full((problems, 4), value))
            exact = binomtest(problems * value, problems).proportion_ci(0.95)
            assert (estimate.low, estimate.high) == pytest.approx(
                (exact.low, exact.high)
            )
