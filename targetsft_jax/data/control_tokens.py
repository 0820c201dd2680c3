"""Control tokens: written by the chat template alone, never by the text of a turn.

The tokenizer itself is the judge, since a normalizer, the flags of its added tokens and
the seams between texts decide what it reads as a control token. The control tokens of a
conversation must be those of one with the same roles and harmless texts. If they are
not, its texts are marked, and no control token may lie in a text or across its border.
"""

import copy
import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.data.loss_mask import close_turns, overlapping, wrong_mark
from targetsft_jax.data.rendering import ChatTemplate, Messages, common_prefix
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.template_sandbox import Spans
from targetsft_jax.data.token_limit import tokenize_start
from targetsft_jax.data.tokenizer import special_ids
from targetsft_jax.data.tool_calls import call_text
from targetsft_jax.data.turns import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A harmless text.
_NEUTRAL = "neutral"
# Added tokens that are the assistant's text, though some templates write them.
_THINKING = ("<think>", "</think>")
# Private-use characters that mark the start and end of the text of each turn.
_FIRST_MARK = 0xF0000
_MARKS = re.compile("[\U000f0000-\U000ffffd]")
_SHAPES = 4096

# Role of each turn, True if its text is blank, and its tool calls.
_Shape = tuple[tuple[str, bool, str], ...]
# Id of each control token, and True if it is trained.
_Sequence = list[tuple[int, bool]]


@dataclass(frozen=True)
class _Expected:
    """Control tokens of a harmless conversation, or the problem of its mask."""

    sequence: _Sequence | None = None
    problem: str | None = None


class ControlTokens:
    """Control tokens of a tokenizer with its chat template.

    Attributes:
        special: [S] ids of the special tokens, except that of unknown characters, which
            any text may become.
        ids: [C] ids of the control tokens: the special ones, and those added tokens
            that the template writes, except thinking marks.
    """

    def __init__(self, template: ChatTemplate):
        self._template, self._tokenizer = template, template.tokenizer
        special = special_ids(self._tokenizer)
        self.special = np.asarray(sorted(special - _unknown(self._tokenizer)), np.int64)
        self._shapes: dict[tuple[_Shape, bool], _Expected] = {}
        self.ids = np.union1d(self.special, np.asarray(self._written(), np.int64))
        size = 1 + max(len(self._tokenizer), *special, 0)
        self._special, self._control = np.zeros((2, size), bool)
        self._special[self.special] = self._control[self.ids] = True
        ids = sorted({*special, *self.ids.tolist()})
        tokens = self._tokenizer.convert_ids_to_tokens(ids)
        longest_first = sorted(tokens, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    @classmethod
    def of(cls, template: ChatTemplate) -> "ControlTokens":
        """Control tokens of a template; equal tokenizers share them."""
        key = frozenset(template.tokenizer.added_tokens_decoder)
        return _control_tokens(template.text, template.tokenizer, key)

    def with_tools(self, tools: Sequence[dict[str, Any]]) -> "ControlTokens":
        """The control tokens of a conversation with these tools."""
        changed = copy.copy(self)
        changed._template, changed._shapes = self._template.with_tools(tools), {}
        return changed

    def is_special(self, tokens: np.ndarray) -> np.ndarray:
        """Mask [n] bool of the special tokens."""
        return self._special[tokens]

    def is_control(self, tokens: np.ndarray) -> np.ndarray:
        """Mask [n] bool of the control tokens."""
        return self._control[tokens]

    def refuse_spelled(self, messages: Messages, origin: str) -> None:
        """Refuse a text that spells a control token.

        Raises:
            RowError: it names the turn and the token.
        """
        for part, text in self._texts(messages):
            match = self._spelled.search(text)
            if match:
                raise RowError(
                    origin,
                    f"{part} contains {match.group()!r}, which would be read as the"
                    " special token itself; remove it from the text",
                )

    def check(
        self,
        messages: Messages,
        text: str,
        tokens: np.ndarray,
        mask: np.ndarray | None,
        origin: str,
        *,
        complete: bool = True,
    ) -> None:
        """Refuse a conversation with other control tokens than its template's.

        Args:
            messages: the turns.
            text: the rendered conversation.
            tokens: [n] int32, its tokens.
            mask: [n] bool, the trained ones; None for a prompt.
            origin: `file:row`.
            complete: False if `tokens` are the first ones alone.

        Raises:
            RowError: the text of a turn, or a text with its neighbour, is read as a
                control token; the template marks other text than the assistant's.
        """
        if self._template.tools or any(m.get("tool_calls") for m in messages):
            # The harmless conversation has the same calls.
            self._refuse_turns(messages, origin, len(text))
        expected = self._expected(messages, mask is None)
        if expected.problem is not None:
            raise RowError(origin, expected.problem)
        sequence = self._sequence(tokens, mask)
        if expected.sequence is not None:
            if sequence == expected.sequence:
                return
            if not complete and sequence == expected.sequence[: len(sequence)]:
                return
        self._refuse_turns(messages, origin, len(tokens))
        self._refuse_seams(messages, text, origin, len(tokens), prompt=mask is None)

    def _expected(self, messages: Messages, prompt: bool) -> _Expected:
        shape = tuple(
            (m["role"], not m["content"].strip(), call_text(m.get("tool_calls")))
            for m in messages
        )
        if (shape, prompt) not in self._shapes:
            if len(self._shapes) >= _SHAPES:
                self._shapes.clear()
            self._shapes[shape, prompt] = self._neutral(messages, prompt)
        return self._shapes[shape, prompt]

    def _neutral(self, messages: Messages, prompt: bool) -> _Expected:
        """Control tokens of a conversation of the same shape with harmless texts."""
        neutral = [
            m | {"content": f"{_NEUTRAL} {i}"} if m["content"].strip() else m
            for i, m in enumerate(messages)
        ]
        try:
            if prompt:
                text, _ = self._template.render(neutral, "", prompt=True)
                return _Expected(self._sequence(self._tokens(text)[0], None))
            text, spans = self._template.locate(neutral, "")
            tokens, offsets = self._tokens(text)
            mask = close_turns(
                tokens,
                overlapping(offsets, spans),
                self.is_special(tokens),
                self._tokenizer,
                turns=sum(m["role"] == "assistant" for m in messages),
                complete=True,
                origin="",
            )
        except RowError:
            # Only some texts satisfy the template: each conversation is examined.
            return _Expected()
        problem = self._mask_problem(neutral, text, spans)
        return _Expected(self._sequence(tokens, mask), problem)

    def _refuse_turns(self, messages: Messages, origin: str, limit: int) -> None:
        """Refuse a text that becomes a control token by itself."""
        for part, content in self._texts(messages):
            ids, offsets, _ = tokenize_start(self._tokenizer, content, limit + 1)
            for at in np.flatnonzero(self.is_control(ids))[:1]:
                start, end = offsets[at].tolist()
                token = self._tokenizer.convert_ids_to_tokens(int(ids[at]))
                raise RowError(
                    origin,
                    f"{part} contains {content[start:end]!r}, which the tokenizer"
                    f" reads as the control token {token!r}; remove it from the text",
                )

    def _texts(self, messages: Messages) -> Iterator[tuple[str, str]]:
        """Texts that are not the template's, each with its place in words."""
        for i, message in enumerate(messages):
            yield f"turn {i}", message["content"]
            if message.get("tool_calls"):
                yield f"turn {i}", call_text(message["tool_calls"])
        if self._template.tools:
            yield "a tool", call_text(self._template.tools)

    def _refuse_seams(
        self, messages: Messages, text: str, origin: str, limit: int, *, prompt: bool
    ) -> None:
        """Refuse a control token across the border of a text, and a wrong mask."""
        contents = self._contents(messages, text, prompt)
        if contents is None:
            raise RowError(
                origin,
                "its control tokens are not those of its turns, and the chat template"
                f" {self._template.name} changes the texts of turns, so that their"
                " origin is unknown; leave the row out, or use another template",
            )
        ids, offsets = self._tokens(text, limit)
        for at in np.flatnonzero(self.is_control(ids)):
            a, b = offsets[at].tolist()
            if any(a < end and start < b for _, start, end in contents):
                token = self._tokenizer.convert_ids_to_tokens(int(ids[at]))
                raise RowError(
                    origin,
                    f"a turn and the text next to it spell {text[a:b]!r}, which the"
                    f" tokenizer reads as the control token {token!r}; change the"
                    " start or end of the turn",
                )
        if not prompt:
            spans = self._template.locate(messages, origin)[1]
            problem = self._mask_problem(messages, text, spans)
            if problem is not None:
                raise RowError(origin, problem)

    def _mask_problem(self, messages: Messages, text: str, spans: Spans) -> str | None:
        """Problem of the template's marks in a rendered conversation, or None."""
        contents = self._contents(messages, text, prompt=False)
        if contents is None and self._template.marked:
            return (
                f"the chat template {self._template.name} changes the texts of turns,"
                " so that its {% generation %} marks cannot be verified; expected the"
                " text of each turn, perhaps without white space around it"
            )
        if contents is None:
            return None  # The prefix property is verified for every row.
        tokens, offsets = self._tokens(text)
        stops = {self._tokenizer.eos_token_id, self._tokenizer.pad_token_id}
        found = np.flatnonzero(self.is_special(tokens))
        ends = [(*offsets[i].tolist(), int(tokens[i]) in stops) for i in found]
        headers = [
            self._header(messages[:i], text)
            for i, message in enumerate(messages)
            if message["role"] == "assistant"
        ]
        roles = [m for m in messages if m["role"] == "assistant"]
        calls = [bool(m.get("tool_calls")) for m in roles]
        wrong = wrong_mark(text, spans, contents, headers, ends, calls)
        return wrong and (
            f"the chat template {self._template.name} marks {wrong} as the assistant's;"
            " expected the content of each assistant turn and its end alone: check its"
            " {% generation %} marks"
        )

    def _header(self, messages: Messages, text: str) -> int:
        """Leading characters of a text that are those of a prompt."""
        try:
            prompt, _ = self._template.render(messages, "", prompt=True)
        except RowError:
            return 0
        return common_prefix(prompt, text)

    def _contents(
        self, messages: Messages, text: str, prompt: bool
    ) -> list[tuple[str, int, int]] | None:
        """Role, start and end in `text` of the content of every turn that is in it.

        None if the template renders marked texts otherwise than these.
        """
        if _MARKS.search(text) or len(messages) > 2**15 - 2:
            return None
        marked = [_enclosed(m, _FIRST_MARK + 2 * i) for i, m in enumerate(messages)]
        try:
            rendered, _ = self._template.render(marked, "", prompt=prompt)
        except RowError:
            return None
        if _MARKS.sub("", rendered) != text:
            return None
        contents, opened = [], {}
        for number, match in enumerate(_MARKS.finditer(rendered)):
            turn, closes = divmod(ord(match.group()) - _FIRST_MARK, 2)
            at = match.start() - number
            if not closes:
                opened[turn] = at
            elif turn in opened:
                contents.append((messages[turn]["role"], opened.pop(turn), at))
            else:
                return None
        return None if opened else contents

    def _sequence(self, tokens: np.ndarray, mask: np.ndarray | None) -> _Sequence:
        control = self.is_control(tokens)
        ids = tokens[control].tolist()
        trained = [False] * len(ids) if mask is None else mask[control].tolist()
        return list(zip(ids, trained))

    def _tokens(
        self, text: str, limit: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        limit = len(text) * 8 + 8 if limit is None else limit
        return tokenize_start(self._tokenizer, text, limit)[:2]

    def _written(self) -> list[int]:
        """Ids of the added tokens that the template writes, except thinking marks."""
        added = {
            i: token.content
            for i, token in self._tokenizer.added_tokens_decoder.items()
            if not token.special and token.content not in _THINKING
        }
        written: set[int] = set()
        turns = [
            {"role": role, "content": _NEUTRAL}
            for role in ("system", "user", "assistant", "user")
        ]
        for messages in (turns, turns[1:], turns[1:2], turns[1:3]) if added else ():
            for prompt in (True, False):
                try:
                    text, _ = self._template.render(messages, "", prompt=prompt)
                except RowError:
                    continue
                written |= added.keys() & set(self._tokens(text)[0].tolist())
        return sorted(written)


@functools.lru_cache(maxsize=8)
def _control_tokens(
    text: str, tokenizer: "PreTrainedTokenizerBase", added: frozenset[int]
) -> ControlTokens:
    return ControlTokens(ChatTemplate.of(tokenizer))


def _unknown(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Id of the token for unknown characters, unless it has another role too."""
    roles = {
        name: token
        for name, token in tokenizer.special_tokens_map.items()
        if name != "unk_token"
    }
    if tokenizer.unk_token is None or tokenizer.unk_token in roles.values():
        return set()
    return {tokenizer.unk_token_id}


def _enclosed(message: Message, mark: int) -> Message:
    """Message between two private-use characters, inside the white space around it.

    A turn with calls begins with its text, else the name of the first call, and ends
    with the name of the last.
    """
    opening, closing = chr(mark), chr(mark + 1)
    text, calls = message["content"], message.get("tool_calls") or []
    core = text.strip()
    if core:
        start = text.index(core)
        end = start + len(core)
        core += "" if calls else closing
        text = text[:start] + opening + core + text[end:]
    if not calls:
        return message | {"content": text}
    names = [call["function"]["name"] for call in calls]
    names[0] = names[0] if core else opening + names[0]
    names[-1] += closing
    renamed = [
        call | {"function": call["function"] | {"name": name}}
        for call, name in zip(calls, names)
    ]
    return message | {"content": text, "tool_calls": renamed}
