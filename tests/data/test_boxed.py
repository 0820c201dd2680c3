"""The last box of a text with balanced braces."""

import pytest

from targetsft_jax.data.boxed import Boxed, last_boxed
from targetsft_jax.data.catalogue.entry import boxed_answer


@pytest.mark.parametrize(
    "text, content",
    [
        (r"so \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{\{2\}} and \boxed{3", r"\{2\}"),
        (r"\boxed{1} \boxed{ }", " "),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{a\\}", r"a\\"),
        (r"\boxed {5}", None),
        ("none", None),
        (r"\boxed{", None),
    ],
)
def test_the_last_balanced_box_has_content_and_start(text, content):
    boxed = last_boxed(text)
    if content is None:
        assert boxed is None
    else:
        command = "\\boxed{" + content
        assert boxed == Boxed(content, text.rindex(command))


def test_unclosed_boxes_take_linear_time():
    assert last_boxed("\\boxed{1}" + "\\boxed{" * 100_000) == Boxed("1", 0)


def test_the_form_without_braces_is_accepted_on_request():
    text = r"\boxed{1}, or $\boxed 9$."
    assert last_boxed(text) == Boxed("1", 0)
    assert last_boxed(text, unbraced=True) == Boxed("9", text.index(r"\boxed 9"))
    assert last_boxed(r"\boxed{1} and \boxed ", unbraced=True) == Boxed("1", 0)


def test_an_answer_is_the_stripped_content_or_empty():
    assert boxed_answer(r"$\boxed{ 9 }$.") == "9"
    assert boxed_answer(r"$\boxed 9$.") == "9"
    assert boxed_answer("none") == ""
