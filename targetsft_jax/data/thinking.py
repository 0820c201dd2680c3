"""Thoughts that an assistant writes down before it answers."""

import dataclasses

from targetsft_jax.data.record import Record, RowError

# What opens a block of thoughts and what closes it: as Qwen3, DeepSeek-R1 and others
# write it, and as m1 does, where the end is the beginning of the answer.
_BLOCKS = (
    ("<think>", "</think>"),
    ("<|im_start|>think\n", "<|im_start|>answer\n"),
)


def treat(record: Record, thinking: str) -> Record:
    """Keeps or drops the thoughts of all assistant turns.

    Args:
        record: a conversation.
        thinking: `keep`, or `drop` for blocks with the white space behind them.

    Raises:
        RowError: a block is not closed; or, where they are dropped, one is not opened
            or nothing is left.
    """
    messages = []
    for i, message in enumerate(record.messages):
        if message["role"] == "assistant":
            content = message["content"]
            for opening, closing in _BLOCKS:
                content = _without(content, opening, closing, record.origin, i)
            if thinking == "drop":
                message = message | {"content": content}
                _check_left(content, record.origin, i)
        messages.append(message)
    return dataclasses.replace(record, messages=messages)


def _without(text: str, opening: str, closing: str, origin: str, turn: int) -> str:
    kept = []
    while opening in text:
        before, _, inside = text.partition(opening)
        _, closed, text = inside.partition(closing)
        if not closed:
            raise RowError(
                origin,
                f"turn {turn} has an unclosed thinking block: {opening!r} with no"
                f" {closing!r} behind it; close it, or leave the row out",
            )
        kept.append(before)
        text = text.lstrip()
    return "".join([*kept, text])


def _check_left(content: str, origin: str, turn: int) -> None:
    for _, closing in _BLOCKS:
        if closing in content:
            raise RowError(
                origin,
                f"turn {turn} has {closing!r} with nothing that opens it, so what to"
                " drop cannot be known; set data.thinking to keep, or mend the row",
            )
    if not content.strip():
        raise RowError(
            origin, f"turn {turn} is empty without its thoughts; expected an answer"
        )
