"""Rendering of conversations by the chat template of a tokenizer.

If the template marks the assistant's text with `{% generation %}`, its marks locate it.
Otherwise each turn is located by the prefix property: the text rendered up to the turn
must be a prefix of the text rendered with the turn, which must be a prefix of the
complete text. A template that rewrites earlier turns violates it and is refused, since
a guessed mask would be silently wrong.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from targetsft_jax.data.bundled_templates import begins_with_bos, usable
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.template_sandbox import Spans, has_generation_block, render
from targetsft_jax.data.turns import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Message]

_TEXT = (
    "{%- for message in messages -%}{%- generation -%}"
    "{{- message['content'] + eos_token -}}{%- endgeneration -%}{%- endfor -%}"
)

NAME = "targetsft_chat_template"
"""Attribute of a tokenizer whose template was replaced: the name or file of the new
one."""


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer with its chat template."""

    text: str
    marked: bool
    """True if the template has `{% generation %}` marks."""
    tokenizer: "PreTrainedTokenizerBase"
    tools: Sequence[dict[str, Any]] = ()
    """Definitions of the tools of a conversation."""

    @classmethod
    def of(cls, tokenizer: "PreTrainedTokenizerBase") -> "ChatTemplate":
        """The template of a tokenizer.

        Raises:
            ValueError: it has none, or several.
        """
        if not tokenizer.chat_template:
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no chat template, as"
                " that of a base model; set data.chat_template to one of"
                f" {', '.join(usable(tokenizer))} (the tokenizer has their tokens;"
                " plain fits every base model), or to a .jinja file"
            )
        if isinstance(tokenizer.chat_template, dict):
            try:
                text = tokenizer.get_chat_template()
            except ValueError as error:
                raise ValueError(
                    f"the tokenizer {tokenizer.name_or_path!r} has chat templates"
                    f" {sorted(tokenizer.chat_template)} and none is its default;"
                    " set data.chat_template to one as a file"
                ) from error
        else:
            text = tokenizer.chat_template
        return cls(text, has_generation_block(text), tokenizer)

    @classmethod
    def of_text(cls, tokenizer: "PreTrainedTokenizerBase") -> "ChatTemplate":
        """The template of a text without roles, its only turn; it has no header.

        BOS is written if the tokenizer begins a text so.
        """
        bos = "{{- bos_token -}}" if begins_with_bos(tokenizer) else ""
        return cls(bos + _TEXT, True, tokenizer)

    def with_tools(self, tools: Sequence[dict[str, Any]]) -> "ChatTemplate":
        """The template for a conversation with these tools."""
        return dataclasses.replace(self, tools=tools)

    @property
    def name(self) -> str:
        """Name or file of the template, else that of its tokenizer."""
        name = getattr(self.tokenizer, NAME, None)
        return repr(name) if name else f"of {self.tokenizer.name_or_path!r}"

    def render(
        self, messages: Messages, origin: str, *, prompt: bool = False
    ) -> tuple[str, Spans]:
        """Render messages as text, with the spans inside `{% generation %}` marks.

        Raises:
            RowError: as `template_sandbox.render`.
        """
        # The names of special tokens are variables of the template.
        variables = dict(self.tokenizer.special_tokens_map)
        try:
            return render(
                self.text, messages, variables, prompt=prompt, tools=self.tools
            )
        except ValueError as error:
            problem = f"{error} (chat template {self.name})"
            raise RowError(origin, problem) from error

    def locate(self, messages: Messages, origin: str) -> tuple[str, Spans]:
        """Render messages as text, with the spans of the assistant's turns.

        Raises:
            RowError: as `render`; a template without marks rewrites earlier turns.
        """
        text, spans = self.render(messages, origin)
        if self.marked:
            return text, spans
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before, _ = self.render(messages[:i], origin, prompt=True)
            last = i + 1 == len(messages)
            after = text if last else self.render(messages[: i + 1], origin)[0]
            if not after.startswith(before):
                how = "in training and as the prompt of a generation"
                raise RowError(origin, _prefix_problem(i, how, before, after))
            if not text.startswith(after):
                how = "when more turns follow"
                raise RowError(origin, _prefix_problem(i, how, after, text))
            spans.append((len(before), len(after)))
        return text, spans


def common_prefix(a: str, b: str) -> int:
    """Number of equal characters at the start of two texts."""
    if b.startswith(a):
        return len(a)
    return next(
        (i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b))
    )


def _prefix_problem(turn: int, how: str, shorter: str, longer: str) -> str:
    first = common_prefix(shorter, longer)
    a, b = shorter[first : first + 40], longer[first : first + 40]
    return (
        f"the chat template has no {{% generation %}} marks and renders turn {turn}"
        f" differently {how}: {a!r} becomes {b!r}. The assistant's"
        " tokens cannot be located; set data.chat_template to one that has the marks,"
        " or train on single-turn conversations"
    )
