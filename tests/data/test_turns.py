"""Lists of turns: names of ShareGPT and OpenAI, text parts, turns that are context."""

import pytest
from support.chats import marked, tokenizer_with, trained

from targetsft_jax.data.chat import encode
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.record import to_record
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.turns import parse_turns

USER = {"role": "user", "content": "1+1=?"}
REPLY = {"role": "assistant", "content": "2"}
TOKENIZER = tokenizer_with(marked("m['content'] + '<|im_end|>'", "\\n"))


def _part(text):
    return {"type": "text", "text": text}


def test_speakers_of_sharegpt_are_roles():
    names = ["system", "human", "gpt", "user", "chatgpt"]
    turns = [{"from": name, "value": name} for name in names]
    messages, context = parse_turns(turns, "conversations", "f:1")
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [message["role"] for message in messages] == roles
    assert [message["content"] for message in messages] == names and not context


def test_text_parts_are_concatenated():
    turns = [USER | {"content": [_part("1+"), _part("1=?")]}, REPLY]
    assert parse_turns(turns, "messages", "f:1")[0] == [USER, REPLY]


@pytest.mark.parametrize(
    "turn, problem",
    [
        ({"from": "bot", "value": "x"}, r"\[0\].from is 'bot'; expected one of system"),
        ({"from": "human", "content": "x"}, r"\[0\].value is missing; expected text"),
        (USER | {"content": []}, r"\[0\].content is an empty list; expected text"),
        (USER | {"content": ["x"]}, r"\[0\].content\[0\] is str; expected a part"),
        (
            USER | {"content": [_part("x"), {"type": "image_url"}]},
            r"content\[1\] has type 'image_url'; expected text",
        ),
        (USER | {"content": [{"type": "text"}]}, r"content\[0\] has type 'text'; exp"),
        (REPLY | {"content": [_part(" ")]}, r"\[0\].content is empty"),
        (REPLY | {"weight": 0.5}, r"\[0\].weight is 0.5; expected 0 or 1"),
        (REPLY | {"weight": "0"}, r"\[0\].weight is '0'; expected 0 or 1"),
    ],
)
def test_a_turn_of_another_kind_is_refused(turn, problem):
    with pytest.raises(RowError, match=f"f:1: .*{problem}"):
        parse_turns([turn], "messages", "f:1")


def _trained(row, fields=FieldMap()):  # noqa: B008
    record = to_record(row, fields, "f:1")
    return trained(encode(record, TOKENIZER), TOKENIZER)


def test_a_turn_with_weight_0_is_not_trained():
    """As in OpenAI's fine-tuning format."""
    other = REPLY | {"content": "3"}
    turns = [USER, REPLY, USER, other]
    assert _trained({"messages": turns}) == ["2<|im_end|>", "3<|im_end|>"]
    turns = [USER, REPLY | {"weight": 0}, USER, other | {"weight": 1}]
    assert _trained({"messages": turns}) == ["3<|im_end|>"]
    turns = [USER, REPLY, USER, other | {"weight": 0}]
    assert _trained({"messages": turns}) == ["2<|im_end|>"]
    with_system = FieldMap(system="{system}")
    assert _trained({"messages": turns, "system": "!"}, with_system) == ["2<|im_end|>"]
    with pytest.raises(RowError, match="no token is trained: every assistant turn is"):
        _trained({"messages": [USER, REPLY | {"weight": 0}]})


def test_answers_within_a_prompt_are_not_trained():
    """As in TRL: of prompt and completion, the completion is trained."""
    fields = FieldMap(prompt="prompt", response="completion")
    row = {
        "prompt": [USER, REPLY, USER],
        "completion": [REPLY | {"content": "3"}, USER, REPLY | {"content": "4"}],
    }
    assert _trained(row, fields) == ["3<|im_end|>", "4<|im_end|>"]
    evaluated = to_record(
        row | {"gold": 3},
        FieldMap(prompt="prompt", response="completion", answer="gold"),
        "f:1",
        train=False,
    )
    assert evaluated.messages == [USER, REPLY, USER]


def test_one_number_per_token_counts_the_trained_turns_alone():
    turns = [USER, REPLY | {"weight": 0}, USER, REPLY]
    row = {"messages": turns, "critical_mask": [1, 0]}
    example = encode(to_record(row, FieldMap(), "f:1"), TOKENIZER)
    assert example.columns["critical_mask"][example.loss_mask].tolist() == [1, 0]
