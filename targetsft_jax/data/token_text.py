"""Text of single tokens, for display: spaces kept, parts of characters as bytes."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from targetsft_jax.data.tokenizer import special_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_REPLACEMENT = "\ufffd"
_ANCHOR = "a"
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")


def token_texts(
    tokenizer: "PreTrainedTokenizerBase", ids: Iterable[int]
) -> dict[int, str]:
    """Text of each token, as it stands within a text.

    A token that is a part of a character has its bytes in hexadecimal, ⟨E2 80⟩; a
    special token has its name, and so has one without any text.

    Args:
        tokenizer: the tokenizer.
        ids: token ids; an id that the tokenizer does not know becomes ⟨ID⟩.
    """
    special = special_ids(tokenizer)
    # Decoded alone, a token of a SentencePiece model loses its leading space.
    anchor = tokenizer(_ANCHOR, add_special_tokens=False)["input_ids"][-1:]
    before = _decoded(tokenizer, anchor)
    texts = {}
    for id in ids:
        name = tokenizer.convert_ids_to_tokens(int(id))
        if name is None:
            texts[id] = f"⟨{id}⟩"
        elif id in special:
            texts[id] = str(name)
        else:
            text = _decoded(tokenizer, [*anchor, int(id)]).removeprefix(before)
            texts[id] = text if text and _REPLACEMENT not in text else _bytes(name)
    return texts


def _decoded(tokenizer: "PreTrainedTokenizerBase", ids: list[int]) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _bytes(name: str) -> str:
    """Bytes of a token in hexadecimal; the name of a token that has none."""
    fallback = _BYTE_FALLBACK.fullmatch(name)
    if fallback:
        return f"⟨{fallback[1]}⟩"
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    values = {symbol: byte for byte, symbol in bytes_to_unicode().items()}
    if not name or not all(symbol in values for symbol in name):
        return name
    return "⟨" + " ".join(f"{values[symbol]:02X}" for symbol in name) + "⟩"
