"""Text of single tokens: byte-level, SentencePiece, special, unknown."""

import pytest

from targetsft_jax.data.token_text import token_texts
from targetsft_jax.data.tokenizer import byte_tokenizer


def test_bytes_of_a_character_are_hexadecimal() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer("a é\n", add_special_tokens=False)["input_ids"]
    texts = token_texts(tokenizer, ids)
    assert [texts[id] for id in ids] == ["a", " ", "⟨C3⟩", "⟨A9⟩", "\n"]


def test_special_and_unknown_ids() -> None:
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    assert token_texts(tokenizer, [end, 9999]) == {end: "<|end|>", 9999: "⟨9999⟩"}


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer with ▁ for spaces, a decoder that strips them, and byte fallback."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "▁", "▁the", "re", "a", "▁a", "<0xE2>", "."]
    vocabulary = {piece: id for id, piece in enumerate(pieces)}
    backend = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def test_a_leading_space_is_kept(sentencepiece) -> None:
    texts = token_texts(sentencepiece, range(8))
    assert [texts[id] for id in (2, 3, 5, 7)] == [" the", "re", " a", "."]
    assert texts[6] == "⟨E2⟩" and texts[0] == "<unk>" and texts[1] == " "
