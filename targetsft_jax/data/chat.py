"""A conversation as tokens, with a proof of which of them are trained.

Trained are the assistant's words and the token that ends the turn, nothing else.
Where a template marks them with `{% generation %}` its marks are used. Where it does
not, the place of each turn is proved on the rendered text: the rendering up to the
turn must be a prefix of the rendering with the turn, and that of the whole. A
template that rewrites earlier turns fails the proof and is refused; a mask guessed
from it would be wrong without a sign.
"""

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data.record import Record, RowError
from targetsft_jax.data.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """One tokenized conversation of n tokens."""

    tokens: np.ndarray
    """[n] int32."""
    loss_mask: np.ndarray
    """[n] bool: this token is one the model is trained to say."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """[n] float32 each; 0 where loss_mask is False."""
    origin: str = ""


def encode(record: Record, tokenizer: "PreTrainedTokenizerBase") -> Example:
    """Tokenizes a record with the tokenizer's own chat template.

    Raises:
        ValueError: the tokenizer has no chat template.
        RowError: the template refuses the conversation or rewrites earlier turns; an
            assistant turn is not closed by a special token; the mask is empty; the
            text contains a special token; a column has the wrong number of entries.
    """
    _refuse_special_text(record, tokenizer)
    locate = _marked if marks_assistant(tokenizer) else _proved
    tokens, mask = locate(record, tokenizer)
    mask = _close_turns(tokens, mask, record, tokenizer)
    return Example(tokens, mask, _columns(record, mask), record.origin)


def encode_prompt(
    messages: list[dict[str, str]], tokenizer: "PreTrainedTokenizerBase"
) -> np.ndarray:
    """Tokens of a conversation after which the assistant speaks: [n] int32."""
    text = _render(messages, tokenizer, "prompt", add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.asarray(ids, np.int32)


def stop_tokens(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Ids at which generation ends: the token that closes a trained turn, and eos.

    A base model's eos need not be what its chat template ends a turn with.
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
    """Whether the chat template itself marks what the assistant says.

    Raises:
        ValueError: the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has no chat template; put a"
            " chat_template.jinja beside its tokenizer.json"
        )
    return _has_generation_block(tokenizer.get_chat_template())


def show(example: Example, tokenizer: "PreTrainedTokenizerBase") -> str:
    """The example as text, what is trained between ⟦ and ⟧."""
    starts = np.flatnonzero(np.diff(example.loss_mask, prepend=False))
    pieces = []
    for ids in np.split(example.tokens, starts):
        pieces.append(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    # The runs alternate, and the first one (perhaps empty) is not trained.
    marks = (("", ""), ("⟦", "⟧"))
    return "".join(
        marks[i % 2][0] + piece + marks[i % 2][1] for i, piece in enumerate(pieces)
    )


@functools.lru_cache
def _has_generation_block(template: str) -> bool:
    import re

    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _render(
    messages: list[dict[str, str]],
    tokenizer: "PreTrainedTokenizerBase",
    origin: str,
    add_generation_prompt: bool = False,
) -> str:
    from jinja2 import TemplateError

    marks_assistant(tokenizer)  # refuses a tokenizer without a template
    try:
        return tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:
        raise RowError(origin, f"the chat template refuses it: {error}") from error


def _marked(record: Record, tokenizer: "PreTrainedTokenizerBase"):
    """Tokens and mask by the template's own `{% generation %}` marks."""
    from jinja2 import TemplateError

    try:
        encoded = tokenizer.apply_chat_template(
            record.messages,
            return_dict=True,
            return_assistant_tokens_mask=True,
            tokenizer_kwargs={"return_offsets_mapping": True},
        )
    except TemplateError as error:
        raise RowError(record.origin, f"the chat template refuses it: {error}") from (
            error
        )
    tokens = np.asarray(encoded["input_ids"], np.int32)
    offsets = encoded["offset_mapping"]
    mask = np.asarray(encoded["assistant_masks"], bool)
    # A character of several byte tokens at the end of a marked stretch: transformers
    # marks its first token only.
    for end in _stretches(mask)[:, 1]:
        while end < len(mask) and tuple(offsets[end]) == tuple(offsets[end - 1]):
            mask[end] = True
            end += 1
    return tokens, mask


def _proved(record: Record, tokenizer: "PreTrainedTokenizerBase"):
    """Tokens and mask by the prefix property of the rendered text."""
    messages, origin = record.messages, record.origin
    whole = _render(messages, tokenizer, origin)
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:i], tokenizer, origin, add_generation_prompt=True)
        after = _render(messages[: i + 1], tokenizer, origin)
        for shorter, longer in ((before, after), (after, whole)):
            if not longer.startswith(shorter):
                raise RowError(origin, _prefix_problem(i, shorter, longer))
        spans.append((len(before), len(after)))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    tokens = np.asarray(encoded["input_ids"], np.int32)
    offsets = np.asarray(encoded["offset_mapping"], np.int32).reshape(-1, 2)
    mask = np.zeros(len(tokens), bool)
    for start, end in spans:
        # A token that joins the template's last character with the turn's first
        # one is trained: leaving it out would lose the turn's beginning.
        mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
    return tokens, mask


def _prefix_problem(turn: int, shorter: str, longer: str) -> str:
    same = next((i for i, (a, b) in enumerate(zip(shorter, longer)) if a != b), None)
    same = min(len(shorter), len(longer)) if same is None else same
    a, b = shorter[same : same + 40], longer[same : same + 40]
    return (
        f"the chat template has no {{% generation %}} marks and renders turn {turn}"
        f" differently once more follows: {a!r} becomes {b!r}. Which tokens are the"
        " assistant's cannot be proved; add the marks to chat_template.jinja, or"
        " train on single-turn conversations"
    )


def _close_turns(
    tokens: np.ndarray,
    mask: np.ndarray,
    record: Record,
    tokenizer: "PreTrainedTokenizerBase",
) -> np.ndarray:
    """Makes every trained stretch end with the token that ends the turn.

    A stretch that stops short of it is extended by it; white space that a template
    puts behind it is left out, since the model has stopped by then.

    Raises:
        RowError: nothing is trained, fewer turns than the assistant has are, or a
            turn ends without a special token, so that nothing would teach to stop.
    """
    special = np.isin(tokens, list(special_ids(tokenizer)))
    mask = mask.copy()
    stretches = _stretches(mask)
    turns = sum(message["role"] == "assistant" for message in record.messages)
    if len(stretches) == 0:
        raise RowError(
            record.origin,
            "no token is trained: the chat template marks nothing as the assistant's",
        )
    if len(stretches) != turns:
        raise RowError(
            record.origin,
            f"{len(stretches)} stretches are trained for {turns} assistant turns;"
            " check the {% generation %} marks of the chat template",
        )
    for start, end in stretches:
        inside = start + np.flatnonzero(special[start:end])
        close = inside[-1] if len(inside) else end
        if close < end and not tokenizer.decode(tokens[close + 1 : end]).strip():
            mask[close + 1 : end] = False
        elif end < len(tokens) and special[end]:
            mask[end] = True
        else:
            text = tokenizer.decode(tokens[max(start, end - 8) : end])
            raise RowError(
                record.origin,
                f"an assistant turn ends in {text!r} and no special token closes it:"
                " the model would not learn to stop; add the eos token to the chat"
                " template",
            )
    return mask


def _stretches(mask: np.ndarray) -> np.ndarray:
    """[runs, 2]: start and end of each run of True."""
    padded = np.concatenate([[False], mask, [False]])
    return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)


def _refuse_special_text(record: Record, tokenizer: "PreTrainedTokenizerBase") -> None:
    for i, message in enumerate(record.messages):
        for token in tokenizer.all_special_tokens:
            if token in message["content"]:
                raise RowError(
                    record.origin,
                    f"turn {i} contains {token!r}, which would be read as the special"
                    " token itself; take it out of the text",
                )


def _columns(record: Record, mask: np.ndarray) -> dict[str, np.ndarray]:
    trained = int(mask.sum())
    columns = {}
    for name, value in record.columns.items():
        if isinstance(value, list) and len(value) != trained:
            raise RowError(
                record.origin,
                f"{name} has {len(value)} entries; expected {trained}, one for each"
                " trained token (the end of each assistant turn is one)",
            )
        column = np.zeros(len(mask), np.float32)
        column[mask] = value
        columns[name] = column
    return columns
