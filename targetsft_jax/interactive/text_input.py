"""Text and conversations as users pass them, as token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.data.chat import encode, encode_prompt
from targetsft_jax.data.chat_templates import names
from targetsft_jax.data.record import Record
from targetsft_jax.data.turns import Message, check_roles, parse_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]
"""Turns, {"role": system | user | assistant, "content": text} each."""

Text = str | Messages
"""Plain text, or a conversation to be rendered by the chat template."""


@dataclass(frozen=True)
class Tokens:
    """A tokenized text.

    Attributes:
        ids: [L] int32.
        positions: [N] int, indices of the tokens that are scored: those behind the
            first of a plain text, or those that training on a conversation trains.
    """

    ids: np.ndarray
    positions: np.ndarray

    @property
    def labels(self) -> np.ndarray:
        """[N] int32, the scored tokens."""
        return self.ids[self.positions]


def is_messages(text: Any) -> bool:
    """True for a conversation; False for text, or a list of texts or conversations.

    Raises:
        TypeError: neither.
    """
    if isinstance(text, str):
        return False
    if isinstance(text, Sequence) and text:
        if isinstance(text[0], Mapping):
            return True
        if isinstance(text[0], str | Sequence):
            return False
    raise TypeError(
        f"{str(text)[:60]!r} is {type(text).__name__}; expected text, a list of "
        'messages such as {"role": "user", "content": "…"}, or a list of these'
    )


def prompt_ids(text: Text, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens of a prompt: plain text to continue, or a conversation to answer.

    Plain text has the tokenizer's special tokens, such as a BOS.

    Raises:
        ValueError: messages without a chat template, or that it cannot render; no
            tokens.
    """
    if is_messages(text):
        messages = _parsed(text, tokenizer, train=False)
        return encode_prompt(messages, tokenizer).tolist()
    ids = _plain(str(text), tokenizer)
    if not len(ids):
        raise ValueError(
            "the prompt is empty, and the tokenizer adds no token before it; expected "
            "text"
        )
    return ids.tolist()


def scored_tokens(text: Text, tokenizer: "PreTrainedTokenizerBase") -> Tokens:
    """Tokens of a text or conversation, and the positions that are scored.

    Raises:
        ValueError: as `prompt_ids`; a text of one token, which nothing predicts; a
            conversation without an assistant turn.
    """
    if is_messages(text):
        messages = _parsed(text, tokenizer, train=True)
        example = encode(Record(messages, origin="the messages"), tokenizer)
        return Tokens(example.tokens, np.flatnonzero(example.loss_mask))
    ids = _plain(str(text), tokenizer)
    if len(ids) < 2:
        raise ValueError(
            f"the text has {len(ids)} token(s); expected at least two, since the first "
            "has no prediction"
        )
    return Tokens(ids, np.arange(1, len(ids)))


def check_template(tokenizer: "PreTrainedTokenizerBase", path: str) -> None:
    """Check that messages can be rendered.

    Raises:
        ValueError: no chat template; names what to set.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {path} has no chat template, so messages cannot be "
            "rendered; set chat_template to the one that it was trained with "
            f"({', '.join(names())}, or a file that ends in .jinja), or pass plain text"
        )


def _parsed(
    text: Any, tokenizer: "PreTrainedTokenizerBase", *, train: bool
) -> list[Message]:
    check_template(tokenizer, tokenizer.name_or_path or "the model")
    messages, _ = parse_turns(list(text), "messages", "the messages")
    check_roles(messages, "the messages", train)
    return messages


def _plain(text: str, tokenizer: "PreTrainedTokenizerBase") -> np.ndarray:
    ids = tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"]
    return np.asarray(ids, np.int32)
