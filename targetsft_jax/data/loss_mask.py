"""Loss mask of a conversation: the assistant's content and its end, nothing else."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.template_sandbox import Spans

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def overlapping(offsets: np.ndarray, spans: Spans) -> np.ndarray:
    """Mask [n] bool of the tokens, offsets [n, 2], that overlap a span."""
    offsets = offsets.reshape(-1, 2)
    mask = np.zeros(len(offsets), bool)
    for start, end in spans:
        # A token that merges the end of the header with the start of the turn is
        # trained: excluding it would lose the start of the turn.
        mask |= (offsets[:, 1] > start) & (offsets[:, 0] < end)
    return mask


def close_turns(
    tokens: np.ndarray,
    mask: np.ndarray,
    special: np.ndarray,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    turns: int,
    complete: bool,
    origin: str,
) -> np.ndarray:
    """Align the end of each trained run with the end-of-turn token.

    A run that stops before the token is extended by it; white space after the token is
    excluded, since generation has stopped by then.

    Args:
        tokens: [n] int32.
        mask: [n] bool, the tokens inside the template's marks.
        special: [n] bool, True at special tokens.
        tokenizer: for error messages.
        turns: number of assistant turns of the conversation.
        complete: False if tokens were cut off at the end, within any turn.
        origin: `file:row`.

    Returns:
        [n] bool.

    Raises:
        RowError: no token is trained; the number of runs is not that of assistant
            turns; no special token closes a turn, so the model would not learn to stop.
    """
    mask = mask.copy()
    runs = _runs(mask)
    if len(runs) == 0 and complete:
        raise RowError(
            origin, "no token is trained: the chat template marks no assistant text"
        )
    if len(runs) > turns or (len(runs) < turns and complete):
        raise RowError(
            origin,
            f"{len(runs)} runs of tokens are trained for {turns} assistant turns;"
            " expected one per turn: check the {% generation %} marks of the chat"
            " template",
        )
    for start, end in runs:
        inside = start + np.flatnonzero(special[start:end])
        close = inside[-1] if len(inside) else end
        trailing = tokens[close + 1 : end]
        if close < end and not str(tokenizer.decode(trailing)).strip():
            mask[close + 1 : end] = False
        elif end < len(tokens) and special[end]:
            mask[end] = True
        elif complete or end < len(tokens):
            text = tokenizer.decode(tokens[max(start, end - 8) : end])
            raise RowError(
                origin,
                f"an assistant turn ends in {text!r} and no special token closes"
                " it: the model would not learn to stop; add the eos token to the"
                " chat template",
            )
    return mask


def wrong_mark(
    text: str,
    spans: Spans,
    contents: Sequence[tuple[str, int, int]],
    headers: Sequence[int],
    ends: Sequence[tuple[int, int, bool]],
    calls: Sequence[bool] = (),
) -> str | None:
    """First problem of the assistant's marks, by their positions in a rendered text.

    Args:
        text: the rendered conversation.
        spans: the marks.
        contents: role, start and end in `text` of the content of each turn.
        headers: per assistant turn, number of leading characters of `text` that are
            those of its prompt, header included.
        ends: start and end of the control tokens in `text`, and True for those that
            stop generation.
        calls: per assistant turn, True if it has tool calls, whose arguments and
            control tokens follow its content.

    Returns:
        The problem, or None.
    """
    assistants = [turn for turn in contents if turn[0] == "assistant"]
    if len(assistants) != len(spans):
        return f"{len(spans)} stretches of text for {len(assistants)} assistant turns"
    for role, start, end in contents:
        if role != "assistant" and any(a < end and start < b for a, b in spans):
            return f"the text of a {role} turn"
    calls = calls or [False] * len(assistants)
    turns = zip(assistants, spans, headers, calls)
    for (_, start, end), (a, b), header, has_calls in turns:
        if not a <= start <= end <= b:
            return "another text than that of the assistant's turn"
        if text[a : max(a, header)].strip():
            return f"the header of a turn, {text[a:header]!r}"
        after = [(c, d, stops) for c, d, stops in ends if end <= c and d <= b]
        if not after or has_calls:
            continue
        rest = list(text[after[0][1] : b])
        for c, d, stops in after:
            if stops:
                rest[c - after[0][1] : d - after[0][1]] = " " * (d - c)
        if "".join(rest).strip():
            return f"text after the end of a turn, {text[after[0][1] : b]!r}"
    return None


def _runs(mask: np.ndarray) -> np.ndarray:
    """Start and end (exclusive) of each run of True: [runs, 2]."""
    padded = np.concatenate([[False], mask, [False]])
    return np.flatnonzero(padded[1:] != padded[:-1]).reshape(-1, 2)
