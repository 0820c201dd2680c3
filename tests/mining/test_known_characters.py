"""Kinds of the tokens of generated solutions, and their agreement with masks."""

import math

from targetsft_jax.data.synthetic import is_computed
from targetsft_jax.mining.known_characters import agreement, marked, token_kinds

from .solver import TOKENIZER

SUM = "8+6+0=14\n#### 14"
DOSE = "20x5=100\n#### B"


def conversation(text: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": text},
    ]


def test_tokens_of_a_solution_have_kinds():
    kinds = token_kinds(conversation(SUM), TOKENIZER)
    letters = dict(result="x", step="s", copied="o", mark=".", stop="!")
    assert "".join(letters[kind] for kind in kinds) == "o.o.o.ss......xx!"
    kinds = token_kinds(conversation(DOSE), TOKENIZER)
    assert "".join(letters[kind] for kind in kinds) == "oo.o.sss......x!"


def test_a_line_without_marks_has_no_computed_character():
    assert is_computed("A 12\n3+4\n\n= 5\x85#### 6") == [
        *[False] * 12,
        True,
        *[False] * 6,
        True,
    ]
    assert is_computed("") == []


def test_precision_and_recall_are_those_of_the_computed_tokens():
    mask = [1, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    row = {"messages": conversation(SUM), "critical_mask": mask}
    result = agreement([row, row], TOKENIZER)
    assert result.precision == 3 / 4 and result.recall == 3 / 4
    assert result.critical == dict(result=2, step=4, copied=2, mark=0, stop=0)
    assert result.tokens == dict(result=4, step=4, copied=6, mark=18, stop=2)
    assert marked(row, TOKENIZER) == "⟦8⟧+6+0=⟦14⟧\n#### ⟦1⟧4⏹"


def test_no_rows_have_no_agreement():
    result = agreement([], TOKENIZER)
    assert math.isnan(result.precision) and math.isnan(result.recall)
