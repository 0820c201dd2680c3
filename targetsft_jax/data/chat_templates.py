"""Replace a tokenizer's chat template by a named one or a file."""

import copy
from typing import TYPE_CHECKING

from targetsft_jax.data.bundled_templates import (
    missing_tokens,
    names,
    read,
    usable,
)
from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.data.rendering import NAME
from targetsft_jax.storage.user_path import user_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def with_template(
    tokenizer: "PreTrainedTokenizerBase",
    template: str | None,
    key: str = "data.chat_template",
) -> "PreTrainedTokenizerBase":
    """Copy a tokenizer with another chat template.

    Args:
        tokenizer: not changed.
        template: one of `names()`, a path that ends in `.jinja`, or None for the
            tokenizer's template. It is rendered in the sandbox of transformers.
        key: the configuration key, for error messages.

    Returns:
        The copy; the tokenizer itself if it already has this template.

    Raises:
        ValueError: no such template; the tokenizer lacks a special token of a named
            template; no special token closes the assistant turns.
    """
    if template is None:
        return tokenizer
    text = _read(template, tokenizer, key)
    if tokenizer.chat_template == text:
        return tokenizer
    if template in names() and (missing := missing_tokens(template, tokenizer)):
        others = ", ".join(usable(tokenizer))
        raise ValueError(
            f"{key} is {template!r}, which writes {', '.join(missing)}, but the"
            f" tokenizer {tokenizer.name_or_path!r} has no such special tokens;"
            f" expected a template of the model's family (of those by name: {others}),"
            " or null for the tokenizer's template"
        )
    changed = copy.copy(tokenizer)
    changed.chat_template = text
    setattr(changed, NAME, template)
    try:
        stop_tokens(changed)
    except ValueError as error:
        raise ValueError(f"{key} is {template!r}: {error}") from error
    return changed


def _read(template: str, tokenizer: "PreTrainedTokenizerBase", key: str) -> str:
    if template in names():
        return read(template, tokenizer)
    path = user_path(template)
    if path.suffix != ".jinja" or not path.is_file():
        raise ValueError(
            f"{key} is {template!r}; expected one of {', '.join(names())}, or a file"
            " that ends in .jinja"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{key} is {template!r}, which is not UTF-8 text ({error}); save it"
            " as UTF-8"
        ) from error
