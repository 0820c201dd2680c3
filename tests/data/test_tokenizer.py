"""The byte tokenizer is lossless; two tokenizers are compared by content."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targetsft_jax.data.tokenizer import (
    byte_tokenizer,
    load_tokenizer,
    same_tokenizer,
    special_ids,
)

TOKENIZER = byte_tokenizer()
TURNS = [
    {"role": "system", "content": "Add."},
    {"role": "user", "content": "1+1=?"},
    {"role": "assistant", "content": "2"},
]


@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: "<|" not in text))  # hypothesis reads this source
def test_every_text_is_decoded_byte_for_byte(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert ids == list(text.encode())  # no token of a special is typed by chance
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("text", ["", " a  b \n\n", "👩🏽‍⚕️ 5 µg → é", "\x00\x7f\r\n\t"])
def test_awkward_texts_are_decoded(text):
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert TOKENIZER.decode(ids) == text


def test_size_and_special_tokens():
    assert len(TOKENIZER) == 264 and len(TOKENIZER) % 8 == 0
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (256, 257)
    assert special_ids(TOKENIZER) == set(range(256, 264))


def test_a_turn_costs_one_token_and_the_assistants_two():
    ids = TOKENIZER.apply_chat_template(TURNS)["input_ids"]
    system, user, assistant, end = TOKENIZER.convert_tokens_to_ids(
        ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
    )
    assert ids == [system, *b"Add.", user, *b"1+1=?", assistant, *b"2", end]


def test_saved_and_loaded_is_the_same(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert same_tokenizer(TOKENIZER, loaded) == []
    assert loaded.chat_template == TOKENIZER.chat_template
    assert loaded.pad_token_id == 256 and loaded.eos_token_id == 257
    for a, b in zip(
        *(
            t.apply_chat_template(
                TURNS, return_dict=True, return_assistant_tokens_mask=True
            ).values()
            for t in (TOKENIZER, loaded)
        )
    ):
        assert a == b


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
    with pytest.raises(ValueError, match="no usable tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        load_tokenizer(tmp_path / "none")


def test_differences_are_shown_by_their_first_entries():
    other = byte_tokenizer()
    other.add_tokens([f"<extra_{i}>" for i in range(7)])
    lines = same_tokenizer(TOKENIZER, other)
    assert lines[0] == "token '<extra_0>': absent and 264"
    assert lines[-1] == "… and 2 more tokens that differ"
    other = byte_tokenizer()
    other.add_special_tokens({"bos_token": "A"})
    assert same_tokenizer(TOKENIZER, other) == ["special token 'A': absent and 65"]


def test_an_equal_vocabulary_that_splits_otherwise_is_not_the_same():
    from tokenizers import normalizers

    other = byte_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    (line,) = same_tokenizer(TOKENIZER, other)
    assert line.startswith("a sample text becomes")


def test_an_equal_vocabulary_with_other_merges_is_not_the_same():
    """Three letters that merge from the left or from the right."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    letters = {token: n for n, token in enumerate(("q", "w", "v", "qw", "wv"))}

    def bpe(*merges):
        raw = Tokenizer(models.BPE(vocab=letters, merges=list(merges)))
        return PreTrainedTokenizerFast(tokenizer_object=raw)

    left, right = (("q", "w"), ("w", "v")), (("w", "v"), ("q", "w"))
    assert bpe(*left)("qwv").input_ids != bpe(*right)("qwv").input_ids
    assert same_tokenizer(bpe(*left), bpe(*right)) == [
        "rank of merge 'q w': 0 and 1",
        "rank of merge 'w v': 1 and 0",
    ]
    assert same_tokenizer(bpe(*left), bpe(*left)) == []


def test_roles_of_tokens_do_not_matter():
    other = byte_tokenizer()
    other.eos_token = "<|pad|>"
    assert same_tokenizer(TOKENIZER, other) == []
