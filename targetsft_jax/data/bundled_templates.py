"""Chat templates of the package by name, and the tokens that each of them writes."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from targetsft_jax.data.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FOLDER = Path(__file__).parent / "templates"
_CONTROL = re.compile(r"<[|｜]?[\w▁]+[|｜]?>|\[/?INST\]")
# Templates without a family, which begin with BOS if the tokenizer begins a text so.
_ANY_FAMILY = ("chatml", "plain")
# Control tokens of DeepSeek-R1, which are not special tokens in its distilled models.
_NOT_SPECIAL = {"<｜User｜>", "<｜Assistant｜>"}


def names() -> list[str]:
    """Names of the templates, `templates/NAME.jinja`."""
    return sorted(path.stem for path in _FOLDER.glob("*.jinja"))


def read(name: str, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Source of a template, for a tokenizer."""
    text = (_FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
    if name in _ANY_FAMILY and begins_with_bos(tokenizer):
        return "{{- bos_token -}}\n" + text
    return text


def missing_tokens(name: str, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Control tokens that a template writes, and a tokenizer lacks as special tokens.

    The list has `eos_token` if the template writes it and the tokenizer has none.
    """
    text = read(name, tokenizer)
    special = set(tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer))))
    special |= _NOT_SPECIAL & set(tokenizer.get_added_vocab())
    missing = sorted(set(_CONTROL.findall(text)) - special)
    if "eos_token" in text and not tokenizer.eos_token:
        missing.append("eos_token")
    return missing


def usable(tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Names of the templates whose tokens a tokenizer has."""
    return [name for name in names() if not missing_tokens(name, tokenizer)]


def begins_with_bos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """True if the tokenizer adds BOS to a text."""
    ids = tokenizer("a", verbose=False)["input_ids"]
    return tokenizer.bos_token_id is not None and ids[:1] == [tokenizer.bos_token_id]
