"""Extraction and comparison of stated answers, with verdicts by hand."""

import json

import pytest

from targetsft_jax.evaluation.graders.answers import extract_answer, is_correct


@pytest.mark.parametrize(
    "text, answer",
    [
        ("so 6+6=12\n#### 12", "12"),
        ("#### 1\nno:\n#### 2", "2"),
        ("#### 12 \nand more text", "12"),
        (r"thus \boxed{12}", "12"),
        (r"\boxed{1} no, \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{3} and \boxed{4", "3"),
        (r"\boxed{3}" + "\n#### 4", "4"),
        ("#### Step 1: add\n" + r"so \boxed{5}", "5"),
        (r"#### \boxed{6}", "6"),
        (r"\boxed{7} ####", "7"),
        ("12", None),
        ("", None),
        ("####", None),
        (r"\boxed{}", None),
        (r"\boxed{{1}", None),
    ],
)
def test_extract_answer(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "stated, gold, right",
    [
        ("12", "12", True),
        ("12", "13", False),
        ("1,234,567", "1234567", True),
        ("1234", "1,234", True),
        ("12,34", "1234", False),
        ("12.0", "12", True),
        ("12.", "12", True),
        (".5", "0.50", True),
        ("+3", "3", True),
        ("-3", "3", False),
        ("0.1", "0.10000000000000001", False),
        ("b", "B", True),
        ("C", "B", False),
        ("YES", "yes", True),
        ("no", "yes", False),
        ("x+1", "x + 1", False),
        ("X", "x", True),
        (r"\pi", r"\Pi", False),
        ("twelve", "12", False),
        ("12 mg", "12", False),
    ],
)
def test_is_correct(stated, gold, right):
    assert is_correct(f"work\n#### {stated}", gold) is right
    assert is_correct(rf"work \boxed{{{stated}}}", gold) is right


def test_no_answer_is_wrong_and_a_gold_solution_is_read():
    assert not is_correct("12", "12")
    assert not is_correct("None", "None")
    assert is_correct("#### 12", "6+6=12\n#### 12")
    with pytest.raises(ValueError, match="gold answer is empty"):
        is_correct("#### 1", " ")


def test_every_gold_solution_of_gsm8k_grades_itself(shared):
    text = (shared / "data/gsm8k/test.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.split("\n") if line]
    for row in rows:
        final = row["answer"].split("#### ")[1]
        assert is_correct(row["answer"], final)
        assert is_correct(rf"\boxed{{{int(final.replace(',', ''))}.0}}", row["answer"])
        assert not is_correct(row["answer"], final + "1")


def test_a_generated_solution_grades_itself():
    from targetsft_jax.data.config import SyntheticConfig
    from targetsft_jax.data.synthetic import make_record

    config = SyntheticConfig(kinds={"addition": 1.0, "dosing": 1.0})
    for index in range(50):
        record = make_record(config, index)
        assert is_correct(record.messages[-1]["content"], record.answer)
