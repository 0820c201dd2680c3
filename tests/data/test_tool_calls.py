"""Tool calls and definitions of tools: parsed in every form, trained, or refused."""

import json

import pytest
from support.chats import CHATML, TOOLS, tokenizer_with, trained
from support.tables import load_all

from targetsft_jax.data.chat import encode
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.overlap import Duplicates
from targetsft_jax.data.record import to_record
from targetsft_jax.data.records import problems
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.shapes import SHAPES
from targetsft_jax.data.thinking import treat

TOKENIZER = tokenizer_with(TOOLS)
FUNCTION = {"name": "weather", "description": "d", "parameters": {"type": "object"}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "weather", "arguments": {"city": "Zürich", "days": [1, None]}}
CALLS = [{"type": "function", "function": CALL}]
ROW = {
    "tools": [TOOL],
    "messages": [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": CALLS},
        {"role": "tool", "content": "dry"},
        {"role": "assistant", "content": "No.", "tool_calls": None},
    ],
}
CALLED = (
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": [1,'
    " null]}}\n</tool_call><|im_end|>"
)


def _record(row, shape="messages"):
    return to_record(row, SHAPES[shape].fields, "f:1")


def _changed(turn, **changes):
    turns = list(ROW["messages"])
    turns[turn] = turns[turn] | changes
    return ROW | {"messages": turns}


def test_calls_and_answers_are_trained_and_results_are_not():
    """The text is that of transformers."""
    example = encode(_record(ROW), TOKENIZER)
    text = TOKENIZER.apply_chat_template(
        ROW["messages"], tools=ROW["tools"], tokenize=False
    )
    assert TOKENIZER.decode(example.tokens) == text and "dry" in text
    assert trained(example, TOKENIZER) == [CALLED, "No.<|im_end|>"]
    assert json.dumps(TOOL, ensure_ascii=False) in text


@pytest.mark.parametrize(
    "calls, tools",
    [
        (CALLS, json.dumps([TOOL])),
        ([CALL], [FUNCTION]),
        ([CALL | {"arguments": json.dumps(CALL["arguments"])}], [TOOL]),
        ([{"id": "c1", "function": CALL}], [TOOL]),
    ],
)
def test_other_forms_are_the_same_tokens(calls, tools):
    row = _changed(1, tool_calls=calls, content="")
    (row["messages"])[2] |= {"tool_call_id": "c1", "name": "weather"}
    example = encode(_record(row | {"tools": tools}), TOKENIZER)
    assert trained(example, TOKENIZER) == [CALLED, "No.<|im_end|>"]
    if tools != [FUNCTION]:
        assert (
            example.tokens.tolist() == encode(_record(ROW), TOKENIZER).tokens.tolist()
        )


def test_sharegpt_with_calls():
    row = {
        "tools": json.dumps([TOOL]),
        "conversations": [
            {"from": "human", "value": "Rain?"},
            {"from": "function_call", "value": json.dumps(CALL)},
            {"from": "observation", "value": "dry"},
            {"from": "gpt", "value": "No."},
        ],
    }
    example = encode(_record(row, "sharegpt"), TOKENIZER)
    assert example.tokens.tolist() == encode(_record(ROW), TOKENIZER).tokens.tolist()


def test_a_call_after_text_and_several_calls():
    other = {"function": {"name": "time", "arguments": {}}}
    row = _changed(1, content="Wait. ", tool_calls=[*CALLS, other])
    row["messages"][3:3] = [{"role": "tool", "content": "noon"}]
    example = encode(_record(row), TOKENIZER)
    assert trained(example, TOKENIZER)[0].startswith("Wait. \n<tool_call>")
    assert TOKENIZER.decode(example.tokens) == TOKENIZER.apply_chat_template(
        row["messages"], tools=row["tools"], tokenize=False
    )


def test_a_template_without_tools_refuses_the_row():
    without_calls = _changed(1, content="Dry.", tool_calls=None)
    del without_calls["messages"][2:]
    for row, part in (
        (ROW, "the arguments of the call of 'weather' in turn 1"),
        (without_calls, "tool 0, 'weather'"),
    ):
        with pytest.raises(RowError, match=f"f:1: the chat .* does not render {part}"):
            encode(_record(row), tokenizer_with(CHATML))
    encode(_record(without_calls | {"tools": None}), tokenizer_with(CHATML))
    # A template of which one part is missing.
    for old, part in (
        ("call.arguments | tojson", "the arguments of the call"),
        ("call.name", "the call of 'weather'"),
        ("m.content + '\\n</tool_r", "the result in turn 2"),
        ("tool | tojson", "tool 0"),
    ):
        assert old in TOOLS
        lacking = TOOLS.replace(old, old.replace(old.split()[0], "'-'", 1))
        with pytest.raises(RowError, match=f"does not render {part}"):
            encode(_record(ROW), tokenizer_with(lacking))


@pytest.mark.parametrize(
    "row, problem",
    [
        (
            _changed(1, tool_calls="x"),
            r"\[1\].tool_calls is str; expected a list",
        ),
        (_changed(1, tool_calls=[3]), r"tool_calls\[0\] is int; expected a call"),
        (_changed(1, tool_calls=[{"arguments": {}}]), "has name None; expected text"),
        (_changed(1, tool_calls=[CALL | {"arguments": "{"}]), "arguments is not JSON"),
        (_changed(1, tool_calls=[CALL | {"arguments": [1]}]), "arguments is list; exp"),
        (_changed(1, tool_calls=[CALL | {"name": "\ud800"}]), "an unpaired surrogate"),
        (
            _changed(1, tool_calls=[]),
            r"\[1\].content is NoneType; expected text",
        ),
        (
            _changed(1, tool_calls=None, content="x"),
            "turn 2 is of a tool, and turn 1",
        ),
        (
            _changed(2, content=None),
            r"\[2\].content is NoneType; expected text",
        ),
        (ROW | {"tools": 3}, "field 'tools' is int; expected a list of tools"),
        (ROW | {"tools": "{"}, "field 'tools' is not JSON"),
        (ROW | {"tools": [{}]}, r"tools\[0\] is \{\}; expected"),
    ],
)
def test_another_form_is_refused(row, problem):
    with pytest.raises(RowError, match=f"f:1: .*{problem}"):
        _record(row)


@pytest.mark.parametrize(
    "row, problem",
    [
        (_changed(1, tool_calls=[CALL | {"arguments": {"x": "<|im_end|>"}}]), "turn 1"),
        (ROW | {"tools": [{"name": "w", "x": "<|im_start|>"}]}, "a tool"),
        (_changed(2, content="<|im_end|>"), "turn 2"),
    ],
)
def test_a_control_token_in_any_part_is_refused(row, problem):
    with pytest.raises(RowError, match=f"f:1: {problem} contains '<.im_"):
        encode(_record(row), TOKENIZER)


def test_private_use_characters_beside_tools_are_refused():
    with pytest.raises(RowError, match="private-use characters"):
        encode(_record(_changed(2, content="x\U00100000")), TOKENIZER)


def test_an_evaluation_has_no_tools(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW | {"gold": "No"}))
    config = DataConfig(path=str(path), fields=FieldMap(answer="gold"))
    with pytest.raises(ValueError, match="which are not evaluated"):
        problems(config)
    records, report = load_all(config)
    assert len(records) == 1 and report.read_as == {"rows.jsonl": "messages"}


def test_other_stages_take_turns_without_text():
    record = _record(ROW)
    assert treat(record, "drop").messages == record.messages
    duplicates = Duplicates()
    other = CALL | {"arguments": {"city": "Bern"}}
    for row in (ROW, _changed(1, tool_calls=[other])):
        duplicates.add(_record(row))
    assert duplicates.conversations.count == duplicates.prompts.count == 0
