"""Thinking blocks, kept or dropped, compared with texts written by hand."""

import pytest
from support.chats import record, tokenizer_with, trained

from targetsft_jax.data.chat import encode, encode_prompt
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.thinking import treat

THOUGHT = "<think>\none and one\n</think>\n\nTwo."
M1 = "<|im_start|>think\none and one\n<|im_start|>answer\nAnswer: 2"
# Like Qwen3's: renders the thinking block of the last turn (an empty one if there is
# none) and removes those of earlier turns.
QWEN3 = """\
{%- for m in messages -%}
{%- if m['role'] == 'assistant' -%}
{%- set parts = m['content'].split('</think>') -%}
{%- set thought = parts[0].split('<think>')[-1].strip('\\n') if parts[1:] else '' -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if loop.last -%}{{- '<think>\\n' + thought + '\\n</think>\\n\\n' -}}{%- endif -%}
{{- parts[-1].lstrip('\\n') + '<|im_end|>\\n' -}}
{%- else -%}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def answers(item):
    return [m["content"] for m in item.messages if m["role"] == "assistant"]


@pytest.mark.parametrize(
    "response, remainder",
    [
        (THOUGHT, "Two."),
        (M1, "Answer: 2"),
        ("First. <think>a</think> <think>b\n</think>\nThen.", "First. Then."),
        ("No thought.\n", "No thought.\n"),
    ],
)
def test_blocks_are_dropped_with_the_white_space_behind_them(response, remainder):
    item = record("Is <think> a tag?", response, "b", response)
    assert answers(treat(item, "drop")) == [remainder, remainder]
    assert treat(item, "keep") == item
    assert treat(item, "drop").messages[0] == item.messages[0]


def test_a_hundred_thousand_blocks_are_dropped_in_one_pass():
    """A copy of the rest for each block would be 150 GB."""
    item = record("a", "<think>so</think> " * 100_000 + "Two.")
    assert answers(treat(item, "drop")) == ["Two."]


@pytest.mark.parametrize(
    "response, modes, problem",
    [
        ("<think>so", ("keep", "drop"), "turn 1 has an unclosed thinking block"),
        ("<think>a</think>b<think>", ("keep", "drop"), "unclosed thinking block"),
        ("<|im_start|>think\nso", ("keep", "drop"), "unclosed thinking block"),
        ("so</think>two", ("drop",), "'</think>' without an opening mark"),
        (
            "<think>so</think>\n",
            ("drop",),
            "turn 1 is empty without its thinking",
        ),
    ],
)
def test_a_block_without_both_marks_is_a_bad_row(response, modes, problem):
    for mode in ("keep", "drop"):
        if mode in modes:
            with pytest.raises(RowError, match=f"rows.jsonl:3: .*{problem}"):
                treat(record("a", response), mode)
        else:
            assert answers(treat(record("a", response), mode)) == [response]


def test_a_template_like_qwen3s_trains_the_block_of_a_single_turn():
    tokenizer = tokenizer_with(QWEN3)
    item = record("1+1=?", THOUGHT)
    for mode, expected in (
        ("keep", "<think>\none and one\n</think>\n\nTwo.<|im_end|>"),
        ("drop", "<think>\n\n</think>\n\nTwo.<|im_end|>"),
    ):
        example = encode(treat(item, mode), tokenizer)
        assert trained(example, tokenizer) == [expected]
        prompt = encode_prompt(item.messages[:1], tokenizer)
        text = tokenizer.decode(example.tokens)
        assert text.startswith(tokenizer.decode(prompt) + expected)
    # Earlier turns are rewritten, so their tokens cannot be located.
    for mode in ("keep", "drop"):
        with pytest.raises(RowError, match="renders turn 1 differently"):
            encode(treat(record("a", THOUGHT, "b", THOUGHT), mode), tokenizer)
