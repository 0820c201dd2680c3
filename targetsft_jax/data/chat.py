"""Tokenize conversations by a chat template, with a verified loss mask.

The assistant's content and the end-of-turn token are trained, nothing else. If the
template marks them with `{% generation %}`, its marks are the mask. Otherwise each turn
is located by the prefix property: the text rendered up to the turn must be a prefix of
the text rendered with the turn, which must be a prefix of the complete text. A template
that rewrites earlier turns violates it and is refused, since a guessed mask would be
silently wrong.
"""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.data.record import Record, RowError
from targetsft_jax.data.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


# Records per tokenizer call, which uses all cores.
_BATCH = 1024

# Half-open intervals of characters.
Spans = list[tuple[int, int]]


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
) -> Iterator[Example]:
    """Tokenize records as `encode` does, in batches and on all cores.

    Args:
        records: a stream; one batch is in memory at a time.
        tokenizer: with the chat template.
        refuse: called with the error of each unusable record; if it returns, the record
            is skipped.

    Yields:
        One example per usable record, in order.
    """
    template = _Template.of(tokenizer)
    remaining = iter(records)
    while batch := list(itertools.islice(remaining, _BATCH)):
        rendered: list[tuple[Record, str, Spans]] = []
        for record in batch:
            try:
                template.refuse_special(record)
                rendered.append((record, *template.locate(record)))
            except RowError as error:
                refuse(error)
        if not rendered:
            continue
        encoded = tokenizer(
            [text for _, text, _ in rendered],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        for i, (record, _, spans) in enumerate(rendered):
            tokens = np.asarray(ids[i], np.int32)
            mask = _overlaps(np.asarray(offsets[i], np.int32), spans)
            try:
                mask = template.close_turns(tokens, mask, record)
                example = Example(tokens, mask, _columns(record, mask), record.origin)
            except RowError as error:
                refuse(error)
                continue
            yield example


def encode_prompt(
    messages: list[dict[str, str]], tokenizer: "PreTrainedTokenizerBase"
) -> np.ndarray:
    """Tokenize a prompt up to and including the assistant's header: [n] int32."""
    text, _ = _Template.of(tokenizer).render(messages, "prompt", prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.asarray(ids, np.int32)


def stop_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Token ids that stop generation: the end-of-turn token of the template, and eos.

    The two may differ for a base model.
    """
    messages = [
        {"role": "user", "content": "1+1=?"},
        {"role": "assistant", "content": "2"},
    ]
    example = encode(Record(messages, origin="a probe"), tokenizer)
    stops = {int(example.tokens[example.loss_mask][-1])}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    return sorted(stops)


def marks_assistant(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True if the chat template itself marks the assistant's tokens.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template;"
            " set data.chat_template, or add a chat_template.jinja to its"
            " folder"
        )
    return _has_generation_block(tokenizer.get_chat_template())


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
class _Template:
    """A chat template with the special tokens of its tokenizer."""

    text: str
    marked: bool
    tokenizer: "PreTrainedTokenizerBase"
    special: np.ndarray
    """Ids of the special tokens."""
    special_pattern: re.Pattern[str]
    """Matches a special token spelt out in a text."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "_Template":
        marked = marks_assistant(tokenizer)  # Refuses a tokenizer without a template.
        ids = sorted(special_ids(tokenizer))
        tokens = sorted(tokenizer.convert_ids_to_tokens(ids), key=len, reverse=True)
        pattern = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        text = tokenizer.get_chat_template()
        return cls(text, marked, tokenizer, np.asarray(ids), pattern)

    def refuse_special(self, record: Record) -> None:
        for i, message in enumerate(record.messages):
            match = self.special_pattern.search(message["content"])
            if match:
                raise RowError(
                    record.origin,
                    f"turn {i} contains {match.group()!r}, which would be read as the"
                    " special token itself; remove it from the text",
                )

    def render(
        self, messages: list[dict[str, str]], origin: str, *, prompt: bool = False
    ) -> tuple[str, Spans]:
        """Render messages as text, with the spans inside `{% generation %}` marks."""
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        # The names of special tokens are variables of the template.
        variables: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
        try:
            rendered: Any = render_jinja_template(
                [messages],
                chat_template=self.text,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=self.marked,
                **variables,
            )
        except (TemplateError, TypeError, OverflowError) as error:
            problem = f"the chat template refuses it: {error}"
            raise RowError(origin, problem) from error
        texts, spans = rendered
        return texts[0], spans[0] if self.marked else []

    def locate(self, record: Record) -> tuple[str, Spans]:
        """Render a record as text, with the spans of the assistant's turns."""
        messages, origin = record.messages, record.origin
        text, spans = self.render(messages, origin)
        if self.marked:
            return text, spans
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, _ = self.render(messages[:i], origin, prompt=True)
            last = i + 1 == len(messages)
            after = text if last else self.render(messages[: i + 1], origin)[0]
            for shorter, longer in ((before, after), (after, text)):
                if not longer.startswith(shorter):
                    raise RowError(origin, _prefix_problem(i, shorter, longer))
            spans.append((len(before), len(after)))
        return text, spans

    def close_turns(
        self, tokens: np.ndarray, mask: np.ndarray, record: Record
    ) -> np.ndarray:
        """Align the end of each trained run with the end-of-turn token.

        A run that stops before the token is extended by it; white space after the token
        is excluded, since generation has stopped by then.

        Raises:
            RowError: no token is trained; the number of runs is not that of assistant
                turns; no special token closes a turn, so the model would not learn to
                stop.
        """
        special = np.isin(tokens, self.special)
        mask = mask.copy()
        runs = _runs(mask)
        turns = sum(message["role"] == "assistant" for message in record.messages)
        if len(runs) == 0:
            raise RowError(
                record.origin,
                "no token is trained: the chat template marks no assistant text",
            )
        if len(runs) != turns:
            raise RowError(
                record.origin,
                f"{len(runs)} runs of tokens are trained for {turns} assistant turns;"
                " expected one per turn: check the {% generation %} marks of the chat"
                " template",
            )
        for start, end in runs:
            inside = start + np.flatnonzero(special[start:end])
            close = inside[-1] if len(inside) else end
            trailing = tokens[close + 1 : end]
            if close < end and not str(self.tokenizer.decode(trailing)).strip():
                mask[close + 1 : end] = False
            elif end < len(tokens) and special[end]:
                mask[end] = True
            else:
                text = self.tokenizer.decode(tokens[max(start, end - 8) : end])
                raise RowError(
                    record.origin,
                    f"an assistant turn ends in {text!r} and no special token closes"
                    " it: the model would not learn to stop; add the eos token to the"
                    " chat template",
                )
        return mask


@functools.lru_cache
def _has_generation_block(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _overlaps(offsets: np.ndarray, spans: Spans) -> np.ndarray:
    """Mask [n] bool of the tokens, offsets [n, 2], that overlap a span."""
    offsets = offsets.reshape(-1, 2)
    mask = np.zeros(len(offsets), bool)
    for start, end in spans:
        # A token that merges the end of the header with the start of the turn is
        # trained: excluding it would lose the start of the turn.
        mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
    return mask


def _prefix_problem(turn: int, shorter: str, longer: str) -> str:
    first = next((i for i, (a, b) in enumerate(zip(shorter, longer)) if a != b), None)
    first = min(len(shorter), len(longer)) if first is None else first
    a, b = shorter[first : first + 40], longer[first : first + 40]
    return (
        f"the chat template has no {{% generation %}} marks and renders turn {turn}"
        f" differently when more turns follow: {a!r} becomes {b!r}. The assistant's"
        " tokens cannot be located; set data.chat_template to one that has the marks,"
        " or train on single-turn conversations"
    )


def _runs(mask: np.ndarray) -> np.ndarray:
    """Start and end (exclusive) of each run of True: [runs, 2]."""
    padded = np.concatenate([[False], mask, [False]])
    return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)


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
