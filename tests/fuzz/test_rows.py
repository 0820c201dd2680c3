"""Malformed rows: each refused with its file and line, or skipped and counted."""

import copy
import json

import numpy as np
import pytest

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.pipeline import prepare
from targetsft_jax.data.tokenizer import byte_tokenizer

GOOD = {
    "question": "What is 2+2?",
    "answer": "2+2=4\n#### 4",
    "trajectory_weight": 0.5,
    "options": {"A": "3", "B": "4"},
}
CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 2+2?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And 3+3?"},
        {"role": "assistant", "content": "6"},
    ]
}
ALPACA = {"instruction": "Add.", "input": "2+2", "output": "4"}
FIELDS = FieldMap(prompt="{question}\n{options.A}", response="answer")
# Values other than text, numbers and lists of these.
NO_TEXT = (None, {}, {"text": "4"}, [{}], [None], [["4", {}]], "", " \n\t", [], [""])
NO_NUMBER = ("0.5", [0.5], {}, -0.1, float("nan"), float("inf"), -float("inf"), "", [])


def _bad_questions():
    """Valid rows with one unusable field."""
    for name in ("question", "answer"):
        row = copy.deepcopy(GOOD)
        del row[name]
        yield row
        for value in NO_TEXT:
            if name == "answer" or value not in ("", " \n\t", [], [""]):
                yield GOOD | {name: value}
        for token in byte_tokenizer().all_special_tokens:
            yield GOOD | {name: f"say {token} now"}
    for value in (None, 3, "A", [], {}, {"B": "4"}, {"A": None}, {"A": {}}):
        yield GOOD | {"options": value}
    for value in NO_NUMBER:
        yield GOOD | {"trajectory_weight": value}
    for value in ("x", 2, -1, 0.5, [0, 1], [2] * 12, {}, [[1]], ["1"], [None]):
        yield GOOD | {"critical_mask": value}
    for value in ("x", 0.1, [-1], [-1.0, 0.2], {}, float("nan"), [float("-inf")]):
        yield GOOD | {"old_logprob": value}


def _bad_chats():
    """Values that are not a conversation, or one without a turn to train."""
    turns = CHAT["messages"]
    user, assistant = turns[1], turns[2]
    for value in (None, {}, "hi", 3, [], [3], ["hi"], [None], [[]], [{}], [user]):
        yield {"messages": value}
    yield {}
    for order in (
        [assistant],
        [assistant, user],
        [turns[0], assistant],
        [user, turns[0], assistant],
        [turns[0], turns[0], user, assistant],
        [turns[0]],
        [turns[0], user],
        [user, assistant, turns[0]],
    ):
        yield {"messages": order}
    for place, turn in enumerate(turns):
        for key in ("role", "content"):
            for value in (None, 3, [], {}, ["x"], True):
                yield {"messages": _with(turns, place, turn | {key: value})}
            yield {
                "messages": _with(turns, place, {k: turn[k] for k in turn if k != key})
            }
        for role in ("tool", "User", "", "ASSISTANT", "human", "assistant "):
            yield {"messages": _with(turns, place, turn | {"role": role})}
        for token in ("<|end|>", "<|assistant|>", "<|pad|>"):
            text = turn["content"] + token
            yield {"messages": _with(turns, place, turn | {"content": text})}
        if turn["role"] == "assistant":
            for text in ("", " ", "\n\t"):
                yield {"messages": _with(turns, place, turn | {"content": text})}


def _bad_sharegpt():
    """The same conversations with the names of ShareGPT, of which some are speakers."""
    for row in _bad_chats():
        turns = row.get("messages")
        # "human" is a speaker of ShareGPT.
        if '"human"' not in json.dumps(turns):
            yield _sharegpt(row)


def _sharegpt(row):
    names = {"user": "human", "assistant": "gpt"}

    def renamed(turn):
        if not isinstance(turn, dict):
            return turn
        turn = dict(turn)
        if "role" in turn:
            role = turn.pop("role")
            turn["from"] = names.get(role, role) if isinstance(role, str) else role
        if "content" in turn:
            turn["value"] = turn.pop("content")
        return turn

    turns = row.get("messages", ...)
    if turns is ...:
        return {}
    as_list = isinstance(turns, list)
    return {"conversations": [*map(renamed, turns)] if as_list else turns}


def _bad_alpaca():
    for name in ("instruction", "output"):
        yield {k: v for k, v in ALPACA.items() if k != name}
        for value in NO_TEXT:
            # Without an instruction, the input is the prompt.
            yield ALPACA | {name: value, "input": ""}
    for value in ({}, {"text": "4"}, [{}], [None]):
        yield ALPACA | {"input": value}
    for token in ("<|end|>", "<|assistant|>"):
        yield from (ALPACA | {name: f"say {token}"} for name in ALPACA)


def _with(turns, place, turn):
    return [*turns[:place], turn, *turns[place + 1 :]]


def _bad_lines():
    """Lines that are not a JSON object: truncated, of another type, or not text."""
    line = json.dumps(GOOD).encode()
    for end in range(1, len(line)):
        yield line[:end]
    for value in ("1", "null", "true", '"text"', "[]", "[{}]", "NaN", "1e999"):
        yield value.encode()
    yield from (
        b"\xff\xfe",
        b"\x80",
        b"{\xc3\x28}",
        b"\x00",
        b"{'a': 1}",
        b"{}}",
        b"x",
    )
    yield b"[" * 100_000
    yield line + line
    yield line.replace(b":", b"=", 1)
    yield b'{"question": "\\ud800", "answer": "#### 4", "options": {"A": "3"}}'
    rng = np.random.default_rng(0)
    for _ in range(100):
        # A byte above 127 in place of ASCII is not UTF-8.
        damaged = bytearray(line)
        damaged[rng.integers(len(line))] = rng.integers(128, 256)
        yield bytes(damaged)


def _files(kind):
    """(Malformed lines, a good one, the map of the fields)."""
    if kind == "lines":
        return list(_bad_lines()), json.dumps(GOOD).encode(), FIELDS
    bad, good, fields = {
        "questions": (_bad_questions(), GOOD, FIELDS),
        "chats": (_bad_chats(), CHAT, FieldMap()),
        "sharegpt": (_bad_sharegpt(), _sharegpt(CHAT), FieldMap()),
        "alpaca": (_bad_alpaca(), ALPACA, FieldMap()),
    }[kind]
    return [json.dumps(row).encode() for row in bad], json.dumps(good).encode(), fields


def _config(path, fields, **more):
    return DataConfig(
        source="jsonl", path=str(path), fields=fields, max_length=512, **more
    )


@pytest.mark.parametrize("kind", ["questions", "chats", "sharegpt", "alpaca", "lines"])
def test_skipped_rows_are_counted_and_all_others_are_used(
    kind, tmp_path, count, confined
):
    """Good rows between malformed ones are used, and no others."""
    bad, good, fields = _files(kind)
    path = tmp_path / "rows.jsonl"
    lines = [line for pair in zip(bad, [good] * len(bad)) for line in pair]
    path.write_bytes(b"\n".join(lines) + b"\n")
    tokenizer = byte_tokenizer()
    confined(tmp_path)
    dataset = prepare(_config(path, fields, on_bad_row="skip"), tokenizer).train
    assert dataset.report.bad == len(bad)
    assert dataset.report.rows == 2 * len(bad)
    assert dataset.report.examples == len(bad)
    for _ in bad:
        count(f"rows ({kind})", "skipped and counted")


@pytest.mark.parametrize("kind", ["questions", "chats", "sharegpt", "alpaca", "lines"])
def test_each_ends_the_run_with_its_file_and_line(kind, tmp_path, count, confined):
    bad, good, fields = _files(kind)
    tokenizer = byte_tokenizer()
    confined(tmp_path)
    for number, line in enumerate(bad):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(good + b"\n" + line + b"\n")
        with pytest.raises(ValueError) as refused:
            prepare(_config(path, fields), tokenizer)
        message = str(refused.value)
        assert (
            message.startswith(f"{path}:2: ") and len(message) > len(str(path)) + 15
        ), line
        count(f"rows ({kind})", "refused by file and line")
