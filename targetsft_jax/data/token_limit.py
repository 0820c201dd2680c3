"""Tokens that are stored of an example, and tokenizing no more text than they need.

A text of 50 MB costs as much as the tokens that are stored of it. Tokenizers read from
left to right, but the end of a text may change its last tokens; so the text is cut far
behind the last token that is stored, which is itself far behind the last one that is
trained.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEWEST = 1 << 17
_ROWS = 4
# Tokens between the last stored one and the cut of the text.
_MARGIN = 1024


def stored_tokens(max_length: int) -> int:
    """Most tokens that are stored of an example: at least four times `max_length`.

    A power of two of at least 131,072, so that other lengths use the same tokens.
    """
    return max(_FEWEST, 1 << (_ROWS * max_length - 1).bit_length())


def is_long(text: str, limit: int) -> bool:
    """True if a text may have so many more tokens than `limit` that it is cut."""
    return len(text) > 2 * limit


def tokenize_start(
    tokenizer: "PreTrainedTokenizerBase", text: str, limit: int
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Tokenize the start of a text.

    Args:
        tokenizer: with character offsets.
        text: of any length.
        limit: L, the most tokens to return.

    Returns:
        The first tokens [n] int32, n ≤ L, and their offsets [n, 2] int32, equal to
        those of the complete text; True if these are all of its tokens.
    """
    size = 2 * limit
    while True:
        encoded = tokenizer(
            text[:size],
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        number = len(encoded["input_ids"])
        if size >= len(text) or number >= limit + _MARGIN:
            tokens = np.asarray(encoded["input_ids"][:limit], np.int32)
            offsets = np.asarray(encoded["offset_mapping"][:limit], np.int32)
            complete = size >= len(text) and number <= limit
            return tokens, offsets.reshape(-1, 2), complete
        size *= 2
