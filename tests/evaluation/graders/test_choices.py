"""Strict verdicts on multiple-choice answers, by hand."""

import json

import pytest

from targetsft_jax.evaluation.graders.choices import grade_choice

OPTIONS = {
    "A": "Aspirin",
    "B": "Vitamin B12 deficiency",
    "C": "Parvovirus B19 infection",
    "D": "Iron deficiency",
}
TEN = {letter: f"choice {letter}" for letter in "ABCDEFGHIJ"}


@pytest.mark.parametrize(
    "output, letter, how",
    [
        (r"\boxed{C}", "C", "boxed"),
        (r"\boxed{(c)}", "C", "boxed"),
        (r"\boxed{\text{C. Parvovirus B19 infection}}", "C", "boxed"),
        (r"\boxed{Iron deficiency}", "D", "boxed"),
        (r"\boxed{C}. Option B is wrong.", "C", "boxed"),
        (r"\boxed{A} or rather \boxed{D}", "D", "boxed"),
        ("The answer is (C).", "C", "statement"),
        ("The answer is B because of the smear.", "B", "statement"),
        ("The answer is A because of the smear.", "A", "statement"),
        ("the correct answer is **D**", "D", "statement"),
        ("Answer: C", "C", "statement"),
        ("**Answer:** (c) Parvovirus", "C", "statement"),
        ("The correct option is c", "C", "statement"),
        ("The answer is B. Wait, the answer is C.", "C", "statement"),
        ("The answer is C, not B.", "C", "statement"),
        ("So **C**", "C", "letter"),
        ("**B) Vitamin B12 deficiency**", "B", "letter"),
        ("C", "C", "letter"),
        ("The answer is iron deficiency.", "D", "option text"),
        ("The answer is a parvovirus B19 infection.", "C", "option text"),
        (
            "Type B hepatitis was excluded; therefore Iron deficiency.",
            "D",
            "option text",
        ),
    ],
)
def test_chosen_option(output, letter, how):
    grade = grade_choice(output, letter, OPTIONS)
    assert (grade.correct, grade.extracted, grade.how) == (True, letter, how), grade
    other = "A" if letter != "A" else "B"
    assert not grade_choice(output, other, OPTIONS).correct


@pytest.mark.parametrize(
    "output, how",
    [
        ("", "no answer"),
        ("The answer is not C.", "no answer"),
        ("I considered A, B and C.", "no answer"),
        ("Options A and D are excluded, so it is C, unlike B", "no answer"),
        (r"\boxed{B, C}", "several answers"),
        ("The answer is A or C.", "several answers"),
        ("The answer is unclear.", "no answer"),
        ("It is a patient with an illness.", "no answer"),
    ],
)
def test_no_single_option(output, how):
    for letter in OPTIONS:
        grade = grade_choice(output, letter, OPTIONS)
        assert (grade.correct, grade.how) == (False, how), grade


@pytest.mark.parametrize("letter", TEN)
def test_ten_options(letter):
    assert grade_choice(f"The answer is ({letter}).", letter, TEN).correct
    assert grade_choice(f"The answer is {letter}", letter, TEN).correct


def test_option_whose_text_is_another_letter():
    options = {"A": "B", "B": "A", "C": "O"}
    assert grade_choice(r"\boxed{A}", "A", options).correct


def test_gold_answers_are_letters_of_options():
    with pytest.raises(ValueError, match="'E'; expected the letter of an option"):
        grade_choice("", "E", OPTIONS)
    with pytest.raises(ValueError, match="the problem has none"):
        grade_choice("", "A", {})


def test_edge_cases(shared):
    text = (shared / "data/edge_cases/edge_cases.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    for row in rows:
        if row["kind"] == "mcq":
            grade = grade_choice(row["output"], row["gold"], row["options"])
            assert grade.correct == row["should_match"], row["id"]
