"""Worker processes: order, time limits, errors, canary, no process left behind."""

import subprocess
import sys
import threading

import pytest

from targetsft_jax.evaluation import grading
from targetsft_jax.evaluation.graders import canary
from targetsft_jax.evaluation.grading import GradingRequest, check_gold, grade_all


def _children() -> str:
    me = str(__import__("os").getpid())
    return subprocess.run(
        ["ps", "--ppid", me, "-o", "args="], capture_output=True, text=True
    ).stdout


def test_verdicts_are_in_the_order_of_the_requests_from_any_thread():
    requests = [GradingRequest("math", rf"\boxed{{{i}}}", "3") for i in range(6)] + [
        GradingRequest("choice", "The answer is B", "B", {"A": "x", "B": "y"})
    ]
    grades = []
    thread = threading.Thread(
        target=lambda: grades.extend(grade_all(requests, workers=2))
    )
    thread.start()
    thread.join()
    assert [grade.correct for grade in grades] == [False] * 3 + [True] + [False] * 2 + [
        True
    ]
    assert "grading_worker" not in _children()


def test_a_slow_answer_costs_that_answer_only(monkeypatch):
    requests = [
        GradingRequest("exact", "####" + "1" * 4_000_000, "3" * 4_000_000),
        GradingRequest("exact", "#### 3", "3"),
    ]
    grades = grade_all(requests, workers=1, time_limit=0.02)
    assert [(g.correct, g.how) for g in grades] == [
        (False, "timeout"),
        (True, "marker"),
    ]
    assert "grading_worker" not in _children()


def test_a_request_that_cannot_be_graded_is_an_error_of_its_own():
    grades = grade_all(
        [
            GradingRequest("choice", "A", "Z", {"A": "x"}),
            GradingRequest("exact", "#### 3", "3"),
        ]
    )
    assert [grade.how for grade in grades] == ["error", "marker"]


def test_a_wrong_canary_is_refused(monkeypatch):
    monkeypatch.setitem(canary._KNOWN, "exact", (("#### 1", "2", True),))
    with pytest.raises(RuntimeError, match="expected True for the gold answer '2'"):
        canary.check_canary([("exact", "strict")])


def test_workers_that_cannot_start_are_reported(monkeypatch):
    monkeypatch.setattr(grading, "_WORKER", "targetsft_jax.missing")
    with pytest.raises(RuntimeError, match="before their first answer"):
        grade_all([GradingRequest("exact", "", "1")])
    assert "targetsft_jax.missing" not in _children()


@pytest.mark.parametrize("pair", [("maths", "strict"), ("math", "lenient")])
def test_unknown_graders_and_modes(pair):
    grader, mode = pair
    with pytest.raises(ValueError, match="expected one of (math|strict), "):
        grade_all([GradingRequest(grader, "", "1", mode=mode)])


def test_gold_answers_are_checked():
    check_gold("math", r"\frac{1}{2}")
    for grader, gold in (("math", "3 + + ]"), ("exact", " "), ("choice", "A")):
        with pytest.raises(ValueError, match="gold answer"):
            check_gold(grader, gold)


def test_the_package_and_its_workers_do_without_jax_and_sympy():
    code = (
        "import sys, targetsft_jax.evaluation.grading_worker;"
        "assert not {'jax', 'sympy', 'math_verify', 'latex2sympy2_extended'}"
        " & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
