"""Verdicts of the graders, and the check of gold answers."""

import pytest

from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.graders.grade import Grade
from targetsft_jax.evaluation.grading import check_answers
from targetsft_jax.mining import graders


def problem(answer: str) -> Problem:
    return Problem([{"role": "user", "content": "?"}], answer, f"f:{answer}")


def test_numbers_are_compared_by_value():
    pairs = [(problem("1,200"), "#### 1200"), (problem("2"), "2"), (problem("2"), "")]
    assert graders.verdicts("exact", pairs) == [True, False, False]


def test_equal_answers_are_graded_once_and_faults_are_reported(monkeypatch, capsys):
    requests = []

    def grade_answers(batch):
        requests.extend(batch)
        return [
            Grade(request.output == request.gold, None, "timeout" * (index == 1))
            for index, request in enumerate(batch)
        ]

    monkeypatch.setattr(graders, "grade_answers", grade_answers)
    pairs = [(problem(gold), text) for gold, text in ("aa", "ab", "ba", "aa", "ab")]
    assert graders.verdicts("math", pairs) == [True, False, False, True, False]
    assert [(r.grader, r.output, r.gold) for r in requests] == [
        ("math", "a", "a"),
        ("math", "b", "a"),
        ("math", "a", "b"),
    ]
    assert "1 answers could not be graded in time" in capsys.readouterr().out


@pytest.mark.parametrize("grader", graders.GRADERS)
def test_an_unusable_gold_answer_is_refused_with_its_problem(grader):
    check_answers(grader, [problem("1")])
    with pytest.raises(ValueError, match="^f: : the gold answer is empty"):
        check_answers(grader, [problem("1"), problem(" ")])
