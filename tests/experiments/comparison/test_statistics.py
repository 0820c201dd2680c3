"""Statistics against computations written out on the counts."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from targetsft_jax.experiments.comparison.statistics import statistics


def _shares(rows, setting, label):
    """Shares [seeds, P]."""
    counts = [r.correct for r in rows if (r.setting, r.label) == (setting, label)]
    return np.array(counts) / rows[0].samples


def test_both_intervals_and_tests_equal_scipys(make_rows):
    rows = make_rows()
    setting = statistics(rows).settings[0]
    score, sft, kd = (
        setting.scores["kd"],
        *(_shares(rows, "one", x) for x in ("sft", "kd")),
    )
    assert list(score.seeds.values()) == pytest.approx(kd.mean(axis=1))
    assert score.deviation == pytest.approx(kd.mean(axis=1).std(ddof=1))
    for estimate, values in (
        (score.over_problems, kd.mean(axis=0)),
        (score.over_seeds, kd.mean(axis=1)),
        (score.difference.over_problems, (kd - sft).mean(axis=0)),
        (score.difference.over_seeds, (kd - sft).mean(axis=1)),
    ):
        low, high = stats.t.interval(
            0.95, len(values) - 1, values.mean(), stats.sem(values)
        )
        assert estimate.value == pytest.approx(values.mean())
        assert (estimate.low, estimate.high) == pytest.approx((low, high))
    expected = stats.ttest_rel(kd.mean(axis=0), sft.mean(axis=0)).pvalue
    assert score.difference.p_value == pytest.approx(expected)
    se = stats.sem((kd - sft).mean(axis=0))
    assert score.difference.smallest_visible == pytest.approx(2.8016 * se, rel=1e-4)


def test_holm_is_over_the_methods_of_a_setting_without_the_shared_models(make_rows):
    scores = statistics(make_rows()).settings[0].scores
    family = [
        s.difference
        for s in scores.values()
        if s.method not in ("start", "teacher") and s.difference
    ]
    assert len(family) == 5
    smallest = min(family, key=lambda d: d.p_value)
    assert smallest.adjusted_p_value == pytest.approx(min(1, 5 * smallest.p_value))
    assert np.isnan(scores["start"].difference.adjusted_p_value)


def test_order_is_that_of_the_registry(make_rows):
    expected = ["start", "teacher", "sft", "dft", "kd", "target_sft",
                "target_sft eta=0.25", "custom gamma=0.5 residual=teacher"]  # fmt: skip
    for rows in (make_rows(), make_rows()[::-1]):
        computed = statistics(rows)
        assert list(computed.labels) == expected
        assert all(list(s.scores) == expected for s in computed.settings)


def test_best_is_the_highest_method_and_ties_contain_0(make_rows):
    rows = make_rows()
    scores = statistics(rows).settings[0].scores
    methods = [s for s in scores.values() if s.method not in ("start", "teacher")]
    (best,) = [s for s in methods if s.rank == "best"]
    assert best.over_problems.value == max(s.over_problems.value for s in methods)
    for score in methods:
        gaps = (
            _shares(rows, "one", score.label) - _shares(rows, "one", best.label)
        ).mean(axis=0)
        if score is not best:
            assert (score.rank == "tied") == (stats.ttest_1samp(gaps, 0).pvalue > 0.05)
    assert scores["teacher"].rank == ""


@pytest.mark.parametrize("same", [False, True])
def test_macro_average_over_settings(same, make_rows):
    rows = make_rows(same=same)
    macro = statistics(rows).macro["kd"]
    gaps = np.array(
        [_shares(rows, s, "kd") - _shares(rows, s, "sft") for s in ("one", "two")]
    )
    by_problem = gaps.mean(axis=1)
    assert macro.difference.value == pytest.approx(gaps.mean())
    error = np.hypot(*(stats.sem(x) for x in by_problem)) / 2
    if same:  # Correlated settings: the mean over settings of a problem is the unit.
        error = stats.sem(by_problem.mean(axis=0))
    assert macro.difference.standard_error == pytest.approx(error)
    assert macro.difference.low < 0


def test_two_seeds_have_no_interval_over_seeds(make_rows):
    assert statistics(make_rows(seeds=2)).settings[0].scores["kd"].over_seeds is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"problems": ["x"] * 12}, "setting one, start, seed 2: problem 1 is x, not"),
        ({"problems": ["x"], "correct": [1]}, "1 problems, not 12"),
        ({"correct": [1]}, "1 verdicts of 12 problems; finish the evaluation"),
        ({"samples": 8}, "8 samples per problem; expected 4"),
        ({"seed": 0}, "setting one, start, seed 0: two results"),
        ({"method": "sftt"}, "the method 'sftt'; expected one of start, teacher, sft"),
        ({"method": "sft"}, "label 'start' is of start and of sft"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(change, message, make_rows):
    rows = make_rows()
    rows[2] = dataclasses.replace(rows[2], **change)
    with pytest.raises(ValueError, match=message):
        statistics(rows)


def test_no_results_and_an_unknown_baseline_are_refused(make_rows):
    with pytest.raises(ValueError, match="there are no results"):
        statistics([])
    with pytest.raises(ValueError, match="'x' has no results; expected one of start"):
        statistics(make_rows(), baseline="x")
