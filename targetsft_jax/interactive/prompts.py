"""Prompts of files: JSON lines with messages or prompt, or one prompt per line."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targetsft_jax.data.json_rows import parse_row
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.sources import read_lines
from targetsft_jax.data.turns import check_roles, parse_turns
from targetsft_jax.interactive.text_input import Text, check_template, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

STDIN = "-"
"""Name of standard input, one prompt per line."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of a file.

    Attributes:
        text: plain text to continue, or messages to answer.
        origin: `file:line`.
    """

    text: Text
    origin: str

    @property
    def field(self) -> dict[str, Any]:
        """`prompt` or `messages`, for a row of the output."""
        name = "prompt" if isinstance(self.text, str) else "messages"
        return {name: self.text}


def read_prompts(
    path: str, tokenizer: "PreTrainedTokenizerBase", *, raw: bool, system: str | None
) -> list[Prompt]:
    """Read all prompts of a file, and check them before any is completed.

    Args:
        path: a file in `.jsonl` or `.jsonl.gz` with `messages` (up to the last turn of
            the user; an answer behind it is left out) or `prompt` (text or messages) in
            each row; any other file, or `STDIN`, has one prompt per line, without blank
            lines.
        tokenizer: of the model.
        raw: continue texts, in place of answering them as a user's message.
        system: content of a system message for conversations that have none.

    Raises:
        ValueError: no such file, or no prompt in it; a row that is not a prompt, which
            is named.
    """
    is_rows = path.endswith((".jsonl", ".jsonl.gz"))
    texts = _rows(path) if is_rows else _lines(path)
    prompts = []
    for origin, text in texts:
        try:
            prompt = Prompt(as_prompt(text, tokenizer, raw=raw, system=system), origin)
            prompt_ids(prompt.text, tokenizer)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} has no prompt; expected one per line")
    return prompts


def as_prompt(
    text: Text, tokenizer: "PreTrainedTokenizerBase", *, raw: bool, system: str | None
) -> Text:
    """Prompt of a text: a user's message where the model has a chat template.

    Raises:
        ValueError: a system message without a chat template, or with `raw`.
    """
    if isinstance(text, str):
        if raw or (not tokenizer.chat_template and system is None):
            if system is not None:
                raise ValueError("--raw continues text, and --system is a message")
            return text
        check_template(tokenizer, tokenizer.name_or_path)
        text = [{"role": "user", "content": text}]
    if system is not None and text[0]["role"] != "system":
        text = [{"role": "system", "content": system}, *text]
    return text


def _rows(path: str) -> Iterator[tuple[str, Text]]:
    for origin, line in read_lines(path):
        yield origin, _prompt_of(parse_row(line, origin), origin)


def _prompt_of(row: Mapping[str, Any], origin: str) -> Text:
    name = next((key for key in ("messages", "prompt") if key in row), None)
    if name is None:
        names = ", ".join(sorted(row)) or "no field"
        raise RowError(origin, f"the row has {names}; expected messages or prompt")
    value = row[name]
    if name == "prompt" and isinstance(value, str):
        if not value.strip():
            raise RowError(origin, "field 'prompt' is empty; expected text")
        return value
    messages, _ = parse_turns(value, name, origin)
    if messages[-1]["role"] == "assistant":
        messages = messages[:-1]
    check_roles(messages, origin, train=False)
    return messages


def _lines(path: str) -> Iterator[tuple[str, str]]:
    if path == STDIN:
        lines = ((f"line {n}", text) for n, text in enumerate(sys.stdin, 1))
    else:
        lines = ((where, _decoded(line, where)) for where, line in read_lines(path))
    for origin, line in lines:
        if line.strip():
            yield origin, line.rstrip("\r\n")


def _decoded(line: bytes, origin: str) -> str:
    try:
        return line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{origin}: not UTF-8 ({error})") from None
