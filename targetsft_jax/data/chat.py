"""Tokenize conversations by a chat template, with a verified loss mask.

The assistant's content and the end-of-turn token are trained, nothing else.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data.batches import batches
from targetsft_jax.data.control_tokens import ControlTokens
from targetsft_jax.data.loss_mask import close_turns, overlapping
from targetsft_jax.data.record import Record
from targetsft_jax.data.rendering import ChatTemplate
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.template_sandbox import Spans
from targetsft_jax.data.token_limit import is_long, tokenize_start
from targetsft_jax.data.tool_rendering import refuse_unrendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Records per tokenizer call, which uses all cores.
_BATCH = 1024
# A character takes some 260 bytes while it is tokenized.
_BATCH_CHARACTERS = 2_000_000


@dataclass(frozen=True)
class Example:
    """One tokenized conversation of n tokens."""

    tokens: np.ndarray
    """[n] int32."""
    loss_mask: np.ndarray
    """[n] bool: the token is trained."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Per-token inputs by name, [n] float32 each; 0 where loss_mask is False."""
    origin: str = ""
    """`file:line` of the record, or `kind:split:seed:index` of a generated one."""
    source: int = 0
    """Index of the source in the config."""


def encode(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Example:
    """Tokenize a record with the tokenizer's chat template.

    Raises:
        ValueError: the tokenizer has no chat template.
        RowError: the template raises or rewrites earlier turns; no special token closes
            an assistant turn; the mask is empty; the text contains a special token; a
            column has the wrong number of entries.
    """

    def refuse(error: RowError) -> None:
        raise error

    return next(encode_all([record], tokenizer, refuse))


def encode_all(
    records: Iterable[Record],
    tokenizer: "PreTrainedTokenizerBase",
    refuse: Callable[[RowError], None],
    *,
    limit: int | None = None,
) -> Iterator[Example]:
    """Tokenize records as `encode` does, in batches and on all cores.

    Args:
        records: a stream; one batch is in memory at a time.
        tokenizer: with the chat template.
        refuse: called with the error of each unusable record; if it returns, the record
            is skipped.
        limit: most tokens of an example; the text behind them is not tokenized. None,
            and for records with one number per token: any number.

    Yields:
        One example per usable record, in order.
    """
    for batch in _batches(_rendered(records, tokenizer, refuse)):
        short = [item.text for item in batch if not item.is_long(limit)]
        encoded = tokenizer(
            short or [""],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        of_short = iter(zip(encoded["input_ids"], encoded["offset_mapping"]))
        for item in batch:
            if item.is_long(limit):
                assert limit is not None
                encoding = tokenize_start(tokenizer, item.text, limit)
            else:
                encoding = _first(*next(of_short), item.limit(limit))
            try:
                yield _example(item, *encoding, tokenizer)
            except RowError as error:
                refuse(error)


def encode_prompt(
    messages: list[dict[str, str]],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    origin: str = "the prompt",
    limit: int | None = None,
) -> np.ndarray:
    """Tokenize a prompt up to and including the assistant's header.

    Args:
        messages: the turns, the last of them the user's.
        tokenizer: with the chat template.
        origin: `file:row` of the prompt, for error messages.
        limit: most tokens; None for any number.

    Returns:
        [n] int32.

    Raises:
        ValueError: the tokenizer has no chat template.
        RowError: the template raises; the text of a turn is read as a control token;
            the prompt has more than `limit` tokens.
    """
    template = ChatTemplate.of(tokenizer)
    control = ControlTokens.of(template)
    control.refuse_spelled(messages, origin)
    text, _ = template.render(messages, origin, prompt=True)
    if limit is None:
        tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids, complete = np.asarray(tokens, np.int32), True
    else:
        ids, _, complete = tokenize_start(tokenizer, text, limit)
    control.check(messages, text, ids, None, origin, complete=complete)
    if not complete:
        raise RowError(
            origin,
            f"the prompt has {len(text):,} characters and more than {limit:,} tokens,"
            " the most that the model's positions leave room for; shorten it, or leave"
            " it out",
        )
    return ids


def stop_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids that stop generation: the end-of-turn token of the template, and eos.

    The two may differ for a base model; without a template it is eos alone.
    """
    eos = tokenizer.eos_token_id
    if not tokenizer.chat_template and eos is not None:
        return [eos]
    messages = [
        {"role": "user", "content": "1+1=?"},
        {"role": "assistant", "content": "2"},
    ]
    example = encode(Record(messages, origin="a probe"), tokenizer)
    stops = {int(example.tokens[example.loss_mask][-1])}
    if eos is not None:
        stops.add(eos)
    return sorted(stops)


def marks_assistant(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True if the chat template itself marks the assistant's tokens.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    return ChatTemplate.of(tokenizer).marked


def show(example: Example, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Decode an example, with trained tokens between ⟦ and ⟧."""
    starts = np.flatnonzero(np.diff(example.loss_mask, prepend=False))
    pieces = []
    for ids in np.split(example.tokens, starts):
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        pieces.append(str(text))
    # Untrained and trained pieces alternate; the first is untrained, perhaps empty.
    marks = (("", ""), ("⟦", "⟧"))
    return "".join(
        marks[i % 2][0] + piece + marks[i % 2][1] for i, piece in enumerate(pieces)
    )


@dataclass(frozen=True)
class _Rendered:
    """A record as text, with the spans of the assistant's turns."""

    record: Record
    text: str
    spans: Spans
    control: ControlTokens

    def limit(self, limit: int | None) -> int | None:
        """Limit of its tokens; None with one number per token, which are counted."""
        lists = any(isinstance(x, list) for x in self.record.columns.values())
        return None if lists else limit

    def is_long(self, limit: int | None) -> bool:
        """True if the start alone is tokenized."""
        most = self.limit(limit)
        return most is not None and is_long(self.text, most)


def _rendered(
    records: Iterable[Record],
    tokenizer: "PreTrainedTokenizerBase",
    refuse: Callable[[RowError], None],
) -> Iterator[_Rendered]:
    # Texts need no chat template, which a base model lacks.
    templates: dict[bool, tuple[ChatTemplate, ControlTokens]] = {}
    for record in records:
        if record.is_text not in templates:
            templates[record.is_text] = _template(tokenizer, record.is_text)
        of_record, tokens = templates[record.is_text]
        if record.tools:
            of_record = of_record.with_tools(record.tools)
            tokens = tokens.with_tools(record.tools)
        try:
            tokens.refuse_spelled(record.messages, record.origin)
            refuse_unrendered(of_record, record.messages, record.origin)
            text, spans = of_record.locate(record.messages, record.origin)
        except RowError as error:
            refuse(error)
            continue
        yield _Rendered(record, text, spans, tokens)


def _template(
    tokenizer: "PreTrainedTokenizerBase", is_text: bool
) -> tuple[ChatTemplate, ControlTokens]:
    if is_text:
        of_text = ChatTemplate.of_text(tokenizer)
        return of_text, ControlTokens(of_text)
    template = ChatTemplate.of(tokenizer)
    return template, ControlTokens.of(template)


def _batches(items: Iterator[_Rendered]) -> Iterator[list[_Rendered]]:
    return batches(items, _BATCH, lambda item: len(item.text), _BATCH_CHARACTERS)


def _first(
    ids: list[int], offsets: list[tuple[int, int]], limit: int | None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """First tokens and offsets; True if these are all."""
    complete = limit is None or len(ids) <= limit
    tokens = np.asarray(ids[:limit], np.int32)
    return tokens, np.asarray(offsets[:limit], np.int32), complete


def _example(
    item: _Rendered,
    tokens: np.ndarray,
    offsets: np.ndarray,
    complete: bool,
    tokenizer: "PreTrainedTokenizerBase",
) -> Example:
    record, origin, control = item.record, item.record.origin, item.control
    mask = close_turns(
        tokens,
        overlapping(offsets, item.spans),
        control.is_special(tokens),
        tokenizer,
        turns=sum(message["role"] == "assistant" for message in record.messages),
        complete=complete,
        origin=origin,
    )
    control.check(record.messages, item.text, tokens, mask, origin, complete=complete)
    if record.context:
        mask = _without_context(mask, record)
    return Example(tokens, mask, _columns(record, mask), origin)


def _without_context(mask: np.ndarray, record: Record) -> np.ndarray:
    """Mask without the runs of the assistant turns that are context.

    Raises:
        RowError: no token is trained.
    """
    turns = [i for i, m in enumerate(record.messages) if m["role"] == "assistant"]
    number = np.cumsum(np.diff(mask, prepend=False) & mask)  # of the run, from 1
    is_context = np.array([False, *(turn in record.context for turn in turns)])
    mask = mask & ~is_context[number]
    if not mask.any():
        raise RowError(
            record.origin,
            "no token is trained: every assistant turn is part of the prompt or has"
            " weight 0",
        )
    return mask


def _columns(record: Record, mask: np.ndarray) -> dict[str, np.ndarray]:
    trained = int(mask.sum())
    columns = {}
    for name, value in record.columns.items():
        if isinstance(value, list) and len(value) != trained:
            raise RowError(
                record.origin,
                f"{name} has {len(value)} entries; expected {trained}, one per trained"
                " token (including the end of each assistant turn)",
            )
        column = np.zeros(len(mask), np.float32)
        column[mask] = value
        columns[name] = column
    return columns
