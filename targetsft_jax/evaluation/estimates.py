"""Estimates from verdicts: intervals, paired differences, pass@k, majority@k.

Pure functions of arrays. Two standard errors have different meanings: `over problems`
covers other problems of the same kind and other samples of them; `of sampling` covers
other samples of the same problems alone, and is smaller.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A mean over problems with its standard error and interval.

    Attributes:
        value: the mean, unrounded.
        standard_error: its standard error over problems; nan for a single problem.
        low, high: 95 % confidence interval; nan for a single problem.
        problems: P, the number of units.
    """

    value: float
    standard_error: float
    low: float
    high: float
    problems: int


def verdict_matrix(verdicts: Mapping[tuple[str, int], bool]) -> np.ndarray:
    """Matrix of verdicts [P, k] bool by (problem, sample), in the problems' order.

    Raises:
        ValueError: no verdict; a problem lacks samples that others have. An average
            over samples that do not exist would count them as wrong.
    """
    problems = list(dict.fromkeys(problem for problem, _ in verdicts))
    samples = sorted({sample for _, sample in verdicts})
    if not problems:
        raise ValueError("there are no verdicts; expected one per problem and sample")
    for problem in problems:
        missing = [n for n in samples if (problem, n) not in verdicts]
        if missing:
            numbers = ", ".join(map(str, missing[:5])) + "…" * (len(missing) > 5)
            raise ValueError(
                f"problem {problem} has no verdict for sample {numbers}, and others "
                f"have {len(samples)} samples; finish the evaluation, or grade the "
                "samples that all problems have"
            )
    rows = [[verdicts[problem, sample] for sample in samples] for problem in problems]
    return np.asarray(rows, bool)


def average(correct: np.ndarray) -> Estimate:
    """Average@k: the mean over problems of the share of correct samples.

        SE = sd_i(p̂_i) / √P

    The interval is Student's with P − 1 degrees of freedom, within [0, 1]. Where all
    verdicts are equal it is Clopper and Pearson's of P problems, since a standard
    deviation of 0 over P problems does not prove that all problems are alike.

    Args:
        correct: [P, k] bool.
    """
    estimate = mean_estimate(_shares(correct), 0.0, 1.0)
    low, high = average_interval(
        estimate.value, estimate.standard_error, estimate.problems
    )
    return replace(estimate, low=low, high=high)


def average_interval(
    value: float, standard_error: float, problems: int
) -> tuple[float, float]:
    """95 % interval of `average` from its value and its standard error.

    Args:
        value: Average@k, 0 to 1.
        standard_error: over problems.
        problems: P.

    Returns:
        Lower and upper bound; nan for a single problem.
    """
    if problems > 1 and value in (0.0, 1.0):
        margin = 1 - 0.025 ** (1 / problems)
        return (0.0, margin) if value == 0 else (1 - margin, 1.0)
    return _student_interval(value, standard_error, problems, 0.0, 1.0)


def sampling_error(correct: np.ndarray) -> float:
    """Standard error of Average@k over other samples of the same problems.

        SE² = Σ_i p̂_i (1 − p̂_i) / (k − 1) / P²

    nan for k = 1.

    Args:
        correct: [P, k] bool.
    """
    shares = _shares(correct)
    problems, k = correct.shape
    if k == 1:
        return math.nan
    return float(np.sqrt(np.sum(shares * (1 - shares)) / (k - 1)) / problems)


def paired_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Difference of two models in Average@k on the same problems, first − second.

    Pairing removes the variance of the problems' difficulty, which the models share
    (arXiv 2411.00640). The interval is within [−1, 1].

    Args:
        first: [P, k] bool.
        second: [P, k'] bool, the same problems in the same order.

    Raises:
        ValueError: other numbers of problems.
    """
    if len(first) != len(second):
        raise ValueError(
            f"the models have {len(first)} and {len(second)} problems; expected the "
            "same problems in the same order"
        )
    return mean_estimate(_shares(first) - _shares(second), -1.0, 1.0)


def mean_estimate(values: np.ndarray, lowest: float, highest: float) -> Estimate:
    """Mean of independent units, such as problems or seeds, with Student's interval.

    Args:
        values: [N] float, one per unit.
        lowest, highest: bounds of the interval.
    """
    mean, units = float(values.mean()), len(values)
    error = math.nan
    if units > 1:
        error = float(values.std(ddof=1) / math.sqrt(units))
    low, high = _student_interval(mean, error, units, lowest, highest)
    return Estimate(mean, error, low, high, units)


def p_value(difference: Estimate) -> float:
    """Two-sided p-value of Student's test that a difference is 0.

    nan for a single unit; 0 for units that all differ alike.
    """
    from scipy.stats import t

    if math.isnan(difference.standard_error):
        return math.nan
    if difference.standard_error == 0:
        return float(difference.value == 0)
    ratio = abs(difference.value) / difference.standard_error
    return float(2 * t.sf(ratio, difference.problems - 1))


def macro_average(
    estimates: Sequence[Estimate], lowest: float = 0.0, highest: float = 1.0
) -> Estimate:
    """Mean over S sets of problems, each with the same weight.

        SE = √(Σ_s SE_s²) / S

    The interval is normal, since degrees of freedom of unequal sets do not add.

    Args:
        estimates: one per set.
        lowest, highest: bounds of the interval; −1 and 1 for differences.

    Raises:
        ValueError: no set.
    """
    if not estimates:
        raise ValueError("there are no sets to average; expected at least one")
    sets = len(estimates)
    value = sum(estimate.value for estimate in estimates) / sets
    error = math.hypot(*(estimate.standard_error for estimate in estimates)) / sets
    half = _normal_quantile(0.975) * error
    return Estimate(
        value,
        error,
        max(value - half, lowest),
        min(value + half, highest),
        sum(estimate.problems for estimate in estimates),
    )


def smallest_visible_difference(standard_error: float, power: float = 0.8) -> float:
    """Smallest true difference that a test at 5 % finds with the given power.

        (z_0.975 + z_power) · SE,  2.80 · SE for a power of 0.8

    Args:
        standard_error: that of the difference.
        power: probability of finding it.
    """
    return (_normal_quantile(0.975) + _normal_quantile(power)) * standard_error


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Share of problems of which at least one of k samples is correct.

        1 − C(n − c_i, k) / C(n, k),  unbiased (arXiv 2107.03374, equation 1)

    Args:
        correct: [P, n] bool.
        k: 1 to n.

    Raises:
        ValueError: more samples requested than there are.
    """
    _check(correct)
    n = correct.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k is {k}; expected 1 to {n}, the samples per problem")
    wrong = n - correct.sum(axis=1)
    misses = [math.comb(int(w), k) / math.comb(n, k) for w in wrong]
    return float(1 - np.mean(misses))


def majority_at_k(answers: np.ndarray, correct: np.ndarray) -> float:
    """Share of problems whose most frequent answer is correct.

    Among equally frequent answers one is drawn: the expectation is returned.

    Args:
        answers: [P, k] int, equal for equivalent answers; negative without an answer,
            which has no vote.
        correct: [P, k] bool.

    Raises:
        ValueError: other shapes, or equal answers with different verdicts.
    """
    _check(correct)
    if answers.shape != correct.shape:
        raise ValueError(
            f"answers have shape {answers.shape}; expected that of correct, "
            f"{correct.shape}"
        )
    return float(np.mean([_majority(a, c) for a, c in zip(answers, correct)]))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for several comparisons with one baseline, by Holm's method.

    p̃_(j) = max_{i ≤ j} min(1, (m − i + 1) · p_(i))
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def _student_interval(
    mean: float, error: float, units: int, lowest: float, highest: float
) -> tuple[float, float]:
    """Student's interval within bounds; nan for a single unit."""
    # Imported here: it loads scipy.
    from scipy.stats import t

    if units == 1:
        return math.nan, math.nan
    half = float(t.ppf(0.975, units - 1)) * error
    return max(lowest, mean - half), min(highest, mean + half)


def _shares(correct: np.ndarray) -> np.ndarray:
    """Share of correct samples of each problem [P]."""
    _check(correct)
    return correct.mean(axis=1)


def _check(correct: np.ndarray) -> None:
    """Raise ValueError unless verdicts are a matrix of bool."""
    if correct.dtype != bool or correct.ndim != 2 or correct.size == 0:
        raise ValueError(
            f"verdicts are {correct.dtype} {correct.shape}; expected bool "
            "[problems, samples], not empty"
        )


def _majority(answers: np.ndarray, correct: np.ndarray) -> float:
    votes: dict[int, int] = {}
    verdicts: dict[int, bool] = {}
    for answer, verdict in zip(answers.tolist(), correct.tolist()):
        if answer < 0:
            continue
        votes[answer] = votes.get(answer, 0) + 1
        if verdicts.setdefault(answer, verdict) != verdict:
            raise ValueError(
                f"answer {answer} is both correct and wrong; expected one verdict for "
                "equivalent answers"
            )
    if not votes:
        return 0.0
    most = max(votes.values())
    tied = [verdicts[answer] for answer, count in votes.items() if count == most]
    return sum(tied) / len(tied)


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)
