"""Chat templates by name or from a file, in place of a tokenizer's own one."""

import copy
import re
from pathlib import Path
from typing import TYPE_CHECKING

from targetsft_jax.data.chat import stop_tokens
from targetsft_jax.data.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FOLDER = Path(__file__).parent / "templates"

# Control tokens as the named templates write them.
_CONTROL = re.compile(r"<[|｜][^|｜<>]+[|｜]>")


def names() -> list[str]:
    """The templates that go by a name: files `NAME.jinja` in the folder `templates`."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def with_template(
    tokenizer: "PreTrainedTokenizerBase",
    template: str | None,
    key: str = "data.chat_template",
) -> "PreTrainedTokenizerBase":
    """The tokenizer with another chat template; it is itself left as it is.

    Args:
        tokenizer: whose tokens are shared.
        template: one of `names()`, a path that ends in `.jinja`, or None for the
            tokenizer's own. It is rendered in transformers' sandbox, as any other.
        key: where the choice stands in the configuration, for messages.

    Raises:
        ValueError: no such template; the tokenizer lacks a special token that a named
            one writes; no special token closes an assistant turn of it.
    """
    if template is None:
        return tokenizer
    text = _read(template, key)
    special = set(tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))))
    if template in names():
        lacking = sorted(set(_CONTROL.findall(text)) - special)
        if lacking:
            raise ValueError(
                f"{key} is {template!r}, which writes {', '.join(lacking)}, and the"
                f" tokenizer {tokenizer.name_or_path!r} has no such special tokens;"
                " expected a template of the model's own family, or null for the"
                " tokenizer's own"
            )
    other = copy.copy(tokenizer)
    other.chat_template = text
    try:
        stop_tokens(other)
    except ValueError as error:
        raise ValueError(f"{key} is {template!r}: {error}") from error
    return other


def _read(template: str, key: str) -> str:
    if template in names():
        return (_FOLDER / f"{template}.jinja").read_text(encoding="utf-8")
    path = Path(template).expanduser()
    if path.suffix != ".jinja" or not path.is_file():
        raise ValueError(
            f"{key} is {template!r}; expected one of {', '.join(names())}, or a file"
            " that ends in .jinja"
        )
    return path.read_text(encoding="utf-8")
