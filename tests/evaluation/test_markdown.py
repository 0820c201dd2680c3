"""Markdown tables by the syntax of GitHub's tables."""

import re

from targetsft_jax.evaluation.markdown import markdown


def test_narrow_columns_have_a_rule_that_aligns_right():
    lines = markdown([("model", "k"), ("a", "4")]).splitlines()
    assert lines == ["| model |  k |", "| ----- | -: |", "| a     |  4 |"]
    # Delimiters of a table: one hyphen at least, with or without a colon.
    cells = lines[1].strip("| ").split(" | ")
    assert all(re.fullmatch(":?-+:?", cell) for cell in cells)
