"""The pure parts of perf/self_teaching.py and its report."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def study() -> Any:
    """The module of perf/self_teaching.py."""
    sys.path.insert(0, str(ROOT / "perf"))
    try:
        import self_teaching
    finally:
        sys.path.pop(0)
    return self_teaching


@pytest.fixture(scope="module")
def report(study: ModuleType) -> Any:
    """The module of its tables."""
    return sys.modules["self_teaching_report"]


def _rows(study: Any, path: Any, *arguments: Any) -> list[dict[str, Any]]:
    study.write_rows(path, 200, 3, *arguments)
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_stated_answer_is_that_of_the_noisy_response(study, tmp_path):
    rows = _rows(study, tmp_path / "a", 0.3, False)
    for row in rows:
        a, b = map(int, row["prompt"].removesuffix("=?").split("+"))
        assert row["answer"] == str(a + b)
        assert row["response"].endswith(f"#### {row['stated']}")
    wrong = np.mean([row["stated"] != row["answer"] for row in rows])
    # Two or three digits, each wrong with probability 0.3.
    assert 0.4 < wrong < 0.75
    kept = _rows(study, tmp_path / "b", 0.3, True)
    assert kept == [row for row in rows if row["stated"] == row["answer"]]


def _row(arm: str, seed: int, sampled: float, rate: float = 0.1) -> dict[str, Any]:
    return {
        "name": f"{arm}-{seed}-{rate}",
        "arm": arm,
        "noise": 0.3,
        "seed": seed,
        "rate": rate,
        "sampled": sampled,
        "greedy": sampled,
        "nll": 1.0,
    }


def test_rates_are_selected_on_the_trials_alone(report):
    trial = report.TRIAL_SEED
    rows = [
        _row("sft", trial, 0.5, 0.1),
        _row("sft", trial, 0.6, 0.2),
        _row("sft", 0, 0.9, 0.1),
        _row("dft", trial, 0.7, 0.1),
        _row("dft", trial, 0.7, 0.2),
    ]
    rows = {str(number): row for number, row in enumerate(rows)}
    assert report.best_rate(rows, "sft", 0.3, [0.1, 0.2]) == 0.2
    assert report.best_rate(rows, "dft", 0.3, [0.2, 0.1]) == 0.1
    with pytest.raises(ValueError, match="sft at noise 0.6 has no trial of rate 0.1"):
        report.best_rate(rows, "sft", 0.6, [0.1])


def test_differences_are_paired_by_seed(report):
    first, second = [0.8, 0.7, 0.95, 0.6], [0.5, 0.45, 0.6, 0.4]
    rows = [_row("kd-answer", seed, value) for seed, value in enumerate(first)]
    rows += [_row("sft", seed, value) for seed, value in enumerate(second)][::-1]
    rows.append(_row("sft", report.TRIAL_SEED, 0.0))
    gap = report.difference(rows, "kd-answer", "sft", 0.3, "sampled")
    expected = stats.ttest_rel(first, second).confidence_interval(0.95)
    np.testing.assert_allclose((gap.low, gap.high), expected)
    with pytest.raises(ValueError, match=r"seeds \[0, 1, 2, 3\] and \[\]"):
        report.difference(rows, "sft", "dft", 0.3, "sampled")


def test_the_tables_have_every_arm_and_pair(report):
    rows = [_row(arm, seed, 0.5) for arm in report.ARMS for seed in range(3)]
    for arm in ("start", "teacher"):
        rows.append(_row(arm, 0, 0.25) | {"noise": None})
    scores = list(report.score_table(rows, [0.3]))
    assert len(scores) == 4 + len(report.ARMS)
    assert "| 25.0 | 25.0 | 1.000 |" in scores[2]
    absent = list(report.pair_table(rows, [0.6]))
    assert all(line.endswith(" | – |") for line in absent[2:])
    pairs = list(report.pair_table(rows, [0.3]))
    assert len(pairs) == 2 + len(report.PAIRS)
    assert all("+0.0 [+0.0, +0.0]; +0.0 [+0.0, +0.0]" in line for line in pairs[2:])
