"""Thoughts kept or dropped, held to the text written out."""

import pytest
from support.chats import record, tokenizer_with, trained

from targetsft_jax.data.chat import encode, encode_prompt
from targetsft_jax.data.record import RowError
from targetsft_jax.data.thinking import treat

THOUGHT = "<think>\none and one\n</think>\n\nTwo."
M1 = "<|im_start|>think\none and one\n<|im_start|>answer\nAnswer: 2"
# As Qwen3's own: thoughts of the last turn are written, an empty one if there is none,
# and those of earlier turns taken out.
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
    "said, left",
    [
        (THOUGHT, "Two."),
        (M1, "Answer: 2"),
        ("First. <think>a</think> <think>b\n</think>\nThen.", "First. Then."),
        ("No thought.\n", "No thought.\n"),
    ],
)
def test_thoughts_go_with_the_white_space_behind_them(said, left):
    item = record("Is <think> a tag?", said, "b", said)
    assert answers(treat(item, "drop")) == [left, left]
    assert treat(item, "keep") == item
    assert treat(item, "drop").messages[0] == item.messages[0]


@pytest.mark.parametrize(
    "said, modes, says",
    [
        ("<think>so", ("keep", "drop"), "turn 1 has an unclosed thinking block"),
        ("<think>a</think>b<think>", ("keep", "drop"), "unclosed thinking block"),
        ("<|im_start|>think\nso", ("keep", "drop"), "unclosed thinking block"),
        ("so</think>two", ("drop",), "'</think>' with nothing that opens it"),
        (
            "<think>so</think>\n",
            ("drop",),
            "turn 1 is empty without its thinking",
        ),
    ],
)
def test_a_block_that_cannot_be_told_from_the_answer_is_a_bad_row(said, modes, says):
    for mode in ("keep", "drop"):
        if mode in modes:
            with pytest.raises(RowError, match=f"rows.jsonl:3: .*{says}"):
                treat(record("a", said), mode)
        else:
            assert answers(treat(record("a", said), mode)) == [said]


def test_a_template_as_qwen3s_trains_the_thought_of_a_single_turn():
    tokenizer = tokenizer_with(QWEN3)
    item = record("1+1=?", THOUGHT)
    for mode, spoken in (
        ("keep", "<think>\none and one\n</think>\n\nTwo.<|im_end|>"),
        ("drop", "<think>\n\n</think>\n\nTwo.<|im_end|>"),
    ):
        example = encode(treat(item, mode), tokenizer)
        assert trained(example, tokenizer) == [spoken]
        prompt = encode_prompt(item.messages[:1], tokenizer)
        text = tokenizer.decode(example.tokens)
        assert text.startswith(tokenizer.decode(prompt) + spoken)
    # Earlier turns are rewritten: nobody can say what of them is trained.
    for mode in ("keep", "drop"):
        with pytest.raises(RowError, match="renders turn 1 differently"):
            encode(treat(record("a", THOUGHT, "b", THOUGHT), mode), tokenizer)
