"""Examples of the catalogue as prompts and responses, written out by hand."""

import pytest

from targetsft_jax.data.catalogue import conversation
from targetsft_jax.data.catalogue.entry import example


def test_options_are_lettered_below_the_question():
    row = conversation.as_row(example("Which?", "B", options=["iron", "zinc"]))
    assert row["prompt"] == "Which?\nA. iron\nB. zinc"
    assert row["response"] == "The answer is \\boxed{B}."


@pytest.mark.parametrize(
    "reasoning, answer, added",
    [
        (r"So \boxed{4}.", "4", False),
        (r"So \boxed 4", "4", False),
        ("It is 4.", "4", False),
        ("It is $4$.", "4", False),
        ("It is 14.", "4", True),
        ("It is 4, not 5.", "4", True),
        (r"So \boxed{5}, not", "4", True),
        ("The answer is (B).", "B", False),
        ("Zinc.", "B", True),
        ("A proof.", "", False),
    ],
)
def test_the_answer_follows_where_the_reasoning_does_not_end_in_it(
    reasoning, answer, added
):
    row = conversation.as_row(example("?", answer, reasoning=reasoning))
    ends = f"\n\nThe answer is \\boxed{{{answer}}}."
    assert row["response"] == reasoning + (ends if added else "")
