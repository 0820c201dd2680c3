"""Text of a growing list of tokens, without halves of characters."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_INCOMPLETE = "\ufffd"


def completion_text(tokenizer: "PreTrainedTokenizerBase", tokens: Sequence[int]) -> str:
    """Decode a completion, without special tokens."""
    text = tokenizer.decode(
        list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return str(text)


def text_pieces(
    tokenizer: "PreTrainedTokenizerBase", tokens: Iterable[int]
) -> Iterator[str]:
    """Yield text as soon as it is complete; the pieces join to `completion_text`.

    A character can take several tokens, whose bytes decode to U+FFFD until the last of
    them; these are withheld until a later token or the end decides.

    Args:
        tokenizer: the tokenizer.
        tokens: tokens of one completion.
    """
    ids: list[int] = []
    written = text = ""
    for token in tokens:
        ids.append(token)
        # All tokens: the text of one may depend on those before it.
        text = completion_text(tokenizer, ids)
        stable = text.rstrip(_INCOMPLETE)
        if len(stable) > len(written) and stable.startswith(written):
            yield stable[len(written) :]
            written = stable
    if len(text) > len(written):
        yield text[len(written) :]
