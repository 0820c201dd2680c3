"""Thinking blocks of assistant turns: keep or drop them before tokenizing."""

import dataclasses

from targetsft_jax.data.record import Record, RowError

MODES = ("keep", "drop")

# Opening and closing marks of a block, as Qwen3, DeepSeek-R1 and others write them, and
# as m1 does, where the closing mark begins the answer.
_BLOCKS = (
    ("<think>", "</think>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
)


def treat(record: Record, thinking: str) -> Record:
    """Keep or drop the thinking blocks of all assistant turns.

    Args:
        record: a conversation.
        thinking: one of MODES; `drop` removes blocks with the white space behind them.

    Raises:
        RowError: a block is not closed; with `drop`, a block is not opened or nothing
            is left.
    """
    messages = []
    for i, message in enumerate(record.messages):
        if message["role"] == "assistant":
            content = message["content"]
            for opening, closing in _BLOCKS:
                content = _without(content, opening, closing, record.origin, i)
            if thinking == "drop":
                message = message | {"content": content}
                _check_remains(content, record.origin, i)
        messages.append(message)
    return dataclasses.replace(record, messages=messages)


def _without(text: str, opening: str, closing: str, origin: str, turn: int) -> str:
    remains = []
    while opening in text:
        before, _, inside = text.partition(opening)
        _, closed, text = inside.partition(closing)
        if not closed:
            raise RowError(
                origin,
                f"turn {turn} has an unclosed thinking block: {opening!r} without"
                f" {closing!r} behind it; close it, or leave the row out",
            )
        remains.append(before)
        text = text.lstrip()
    return "".join([*remains, text])


def _check_remains(content: str, origin: str, turn: int) -> None:
    for _, closing in _BLOCKS:
        if closing in content:
            raise RowError(
                origin,
                f"turn {turn} has {closing!r} with nothing that opens it, so the block"
                " to drop has no beginning; set data.thinking to keep, or repair the"
                " row",
            )
    if not content.strip():
        raise RowError(
            origin,
            f"turn {turn} is empty without its thinking block; expected an answer",
        )
