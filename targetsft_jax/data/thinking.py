"""Thinking blocks of assistant turns: keep or drop them before tokenizing."""

import dataclasses

from targetsft_jax.data.record import Record
from targetsft_jax.data.row_error import RowError

MODES = ("keep", "drop")

# Opening and closing marks of a block: those of Qwen3, DeepSeek-R1 and others, and
# those of m1, where the closing mark begins the answer.
_BLOCKS = (
    ("<think>", "</think>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
)


def treat(record: Record, thinking: str) -> Record:
    """Keep or drop the thinking blocks of all assistant turns.

    Args:
        record: a conversation.
        thinking: one of MODES; `drop` removes blocks and the white space after them.

    Raises:
        RowError: an unclosed block; with `drop`, also a block without an opening mark,
            or a turn that would become empty.
    """
    messages = []
    for i, message in enumerate(record.messages):
        if message["role"] == "assistant" and not record.is_text:
            content = message["content"]
            for opening, closing in _BLOCKS:
                content = _without(content, opening, closing, record.origin, i)
            if thinking == "drop":
                message = message | {"content": content}
                calls = bool(message.get("tool_calls"))
                _check_remains(content, record.origin, i, may_be_empty=calls)
        messages.append(message)
    return dataclasses.replace(record, messages=messages)


def _without(text: str, opening: str, closing: str, origin: str, turn: int) -> str:
    remains = []
    at = 0  # The text is not copied for each block, of which there may be millions.
    while (start := text.find(opening, at)) >= 0:
        end = text.find(closing, start + len(opening))
        if end < 0:
            raise RowError(
                origin,
                f"turn {turn} has an unclosed thinking block: {opening!r} without"
                f" {closing!r} after it; close it, or leave the row out",
            )
        remains.append(text[at:start])
        at = end + len(closing)
        while at < len(text) and text[at].isspace():
            at += 1
    return "".join([*remains, text[at:]])


def _check_remains(content: str, origin: str, turn: int, *, may_be_empty: bool) -> None:
    for _, closing in _BLOCKS:
        if closing in content:
            raise RowError(
                origin,
                f"turn {turn} has {closing!r} without an opening mark, so the start of"
                " the block to drop is unknown; set data.thinking to keep, or repair"
                " the row",
            )
    if not content.strip() and not may_be_empty:
        raise RowError(
            origin,
            f"turn {turn} is empty without its thinking block; expected an answer",
        )
