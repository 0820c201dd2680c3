"""Loss mask by the marks of a template: the assistant's turns alone, by position."""

import numpy as np
import pytest
from support.chats import record, tokenizer_with, trained

from targetsft_jax.data.chat import encode
from targetsft_jax.data.loss_mask import close_turns, overlapping
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.tokenizer import byte_tokenizer

OPEN, CLOSE = "{%- generation -%}", "{%- endgeneration -%}"
HEADER = "{{- '<|im_start|>' + m['role'] + '\\n' -}}"
CONTENT, END = "{{- m['content'] -}}", "{{- '<|im_end|>' -}}"


def _template(assistant: str, other: str = HEADER + CONTENT + END) -> str:
    """Template with the given text of an assistant turn, and of any other turn."""
    return (
        "{%- for m in messages -%}{%- if m['role'] == 'assistant' -%}"
        + assistant
        + "{%- else -%}"
        + other
        + "{%- endif -%}{%- endfor -%}"
        "{%- if add_generation_prompt -%}"
        "{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )


RIGHT = {
    "content and end": HEADER + OPEN + CONTENT + END + CLOSE,
    "content alone": HEADER + OPEN + CONTENT + CLOSE + END,
    "white space after the end": HEADER
    + OPEN
    + CONTENT
    + END
    + "{{- '\\n' -}}"
    + CLOSE,
}
RIGHT_ASSISTANT = RIGHT["content and end"]

WRONG = {
    "the header": _template(OPEN + HEADER + CONTENT + END + CLOSE),
    "the user's turn too": _template(
        RIGHT_ASSISTANT, HEADER + OPEN + CONTENT + END + CLOSE
    ),
    "the user's turn instead": _template(
        HEADER + CONTENT + END, HEADER + OPEN + CONTENT + END + CLOSE
    ),
    "the end alone": _template(HEADER + CONTENT + OPEN + END + CLOSE),
    "a text after the end": _template(
        HEADER + OPEN + CONTENT + END + "{{- 'Over.' -}}" + CLOSE
    ),
    "half of the content": _template(
        HEADER
        + "{{- m['content'][:2] -}}"
        + OPEN
        + "{{- m['content'][2:] -}}"
        + END
        + CLOSE
    ),
    "two stretches of a turn": _template(
        HEADER + OPEN + CONTENT + CLOSE + "{{- '|' -}}" + OPEN + END + CLOSE
    ),
    "the conversation": OPEN
    + "{%- for m in messages -%}"
    + HEADER
    + CONTENT
    + END
    + "{%- endfor -%}"
    + CLOSE,
    "the next turn's header": _template(
        HEADER + OPEN + CONTENT + END + "{{- '<|im_start|>user\\n' -}}" + CLOSE,
        "{%- if loop.first -%}" + HEADER + "{%- endif -%}" + CONTENT + END,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_marks_train_the_content_and_its_end(name):
    tokenizer = tokenizer_with(_template(RIGHT[name]))
    for turns in (("1+1=?", "two"), ("a", "bcd", "e", "fgh")):
        example = encode(record(*turns, system="Be brief."), tokenizer)
        expected = [turn + "<|im_end|>" for turn in turns[1::2]]
        assert trained(example, tokenizer) == expected


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_wrong_marks_are_refused(name, system):
    """Also where the number of stretches is that of the assistant's turns."""
    tokenizer = tokenizer_with(WRONG[name])
    for turns in (("1+1=?", "two"), ("abc", "bcd", "efg", "fgh")):
        with pytest.raises(RowError, match="rows.jsonl:3"):
            encode(record(*turns, system=system), tokenizer)


def test_an_empty_turn_trains_its_end_or_is_refused():
    """Never the text of a neighbour."""
    for template in RIGHT.values():
        tokenizer = tokenizer_with(_template(template))
        try:
            example = encode(record("a", ""), tokenizer)
        except RowError:
            continue
        assert trained(example, tokenizer) == ["<|im_end|>"]


def test_tokens_that_overlap_a_span():
    offsets = np.array([[0, 2], [2, 4], [4, 4], [4, 7]], np.int32)
    assert overlapping(offsets, [(3, 4)]).tolist() == [False, True, False, False]
    assert overlapping(offsets, [(0, 1), (6, 9)]).tolist() == [True, False, False, True]
    assert overlapping(np.zeros((0, 2), np.int32), [(0, 1)]).shape == (0,)


def test_a_cut_conversation_may_end_within_a_turn():
    """The tokens behind the cut are not trained, so no end is expected there."""
    tokens = np.arange(5, dtype=np.int32)
    mask = np.array([0, 0, 1, 1, 1], bool)
    special = np.zeros(5, bool)

    def close(complete: bool) -> np.ndarray:
        return close_turns(
            tokens,
            mask,
            special,
            byte_tokenizer(),
            turns=2,
            complete=complete,
            origin="x:1",
        )

    np.testing.assert_array_equal(close(complete=False), mask)
    with pytest.raises(RowError, match="1 runs of tokens are trained for 2 assistant"):
        close(complete=True)
