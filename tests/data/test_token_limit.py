"""The first tokens of a long text equal those of the complete text."""

import numpy as np
import pytest
from support.chats import record
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from targetsft_jax.data import chat, token_limit
from targetsft_jax.data.chat import encode, encode_all
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.token_limit import stored_tokens, tokenize_start
from targetsft_jax.data.tokenizer import byte_tokenizer

WORDS = "the quick brown fox  jumps\n\nover 1,234 lazy dogs… été 剂量🙂 aaaaaa bababab "


def _trained(model, trainer, **parts):
    backend = Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    backend.train_from_iterator([WORDS * 20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


def qwen_like():
    pattern = Regex(r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer = _trained(
        models.BPE(),
        trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
        normalizer=normalizers.NFC(),
        pre_tokenizer=pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(pattern, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
        decoder=decoders.ByteLevel(),
    )
    tokenizer.add_tokens([AddedToken("<|x|>", lstrip=True, rstrip=True)])
    return tokenizer


def llama_like():
    """One word: no pre-tokenizer divides the text."""
    return _trained(
        models.BPE(unk_token="<unk>"),
        trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>"]),
        normalizer=normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        ),
    )


TOKENIZERS = {
    "bytes": byte_tokenizer,
    "qwen": qwen_like,
    "llama": llama_like,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("limit", [7, 100, 1000])
@pytest.mark.parametrize(
    "text",
    [
        WORDS * 200,
        "a" * 9000,
        "ab" * 5000,
        " " * 9000 + WORDS * 20,
        "🙂" * 3000,
        WORDS[:30],
        "",
    ],
    ids=["words", "run", "pairs", "spaces", "emoji", "short", "empty"],
)
def test_the_first_tokens_are_those_of_the_complete_text(
    tokenizer, text, limit, monkeypatch
):
    # As many characters behind the last token as the package has.
    monkeypatch.setattr(token_limit, "_MARGIN", 256)
    complete = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets, is_all = tokenize_start(tokenizer, text, limit)
    assert ids.tolist() == complete["input_ids"][:limit]
    assert [*map(tuple, offsets)] == complete["offset_mapping"][:limit]
    assert is_all == (len(complete["input_ids"]) <= limit)
    assert ids.dtype == offsets.dtype == np.int32 and offsets.shape == (len(ids), 2)


def test_so_many_tokens_are_stored_that_other_lengths_use_the_same():
    assert {stored_tokens(n) for n in (1, 64, 4096, 32768)} == {131072}
    assert stored_tokens(32769) == 262144 and stored_tokens(10**6) >= 4 * 10**6


@pytest.mark.parametrize("place", ["user", "assistant"])
def test_an_example_of_too_many_tokens_is_the_start_of_the_complete_one(place):
    tokenizer = byte_tokenizer()
    contents = ("q" * 50_000, "a") if place == "user" else ("q", "a é" * 20_000)
    complete = encode(record(*contents), tokenizer)
    refused = []
    items = [record("1", "2"), record(*contents), record("3", "4")]
    _, cut, last = encode_all(items, tokenizer, refused.append, limit=1000)
    assert not refused and len(cut.tokens) == 1000
    np.testing.assert_array_equal(cut.tokens, complete.tokens[:1000])
    np.testing.assert_array_equal(cut.loss_mask, complete.loss_mask[:1000])
    assert tokenizer.decode(last.tokens) == "<|user|>3<|assistant|>4<|end|>"


def test_no_more_text_is_tokenized_than_is_stored(monkeypatch):
    tokenizer = byte_tokenizer()
    sizes = []
    call = type(tokenizer).__call__

    def counting(self, text, **options):
        sizes.append(len(text) if isinstance(text, str) else sum(map(len, text)))
        return call(self, text, **options)

    monkeypatch.setattr(type(tokenizer), "__call__", counting)
    item = record("q", "a" * 2_000_000)
    (example,) = encode_all([item], tokenizer, pytest.fail, limit=1000)
    assert len(example.tokens) == 1000 and max(sizes) < 20_000


def test_one_number_per_token_is_compared_with_all_tokens():
    tokenizer = byte_tokenizer()
    item = record("q", "a" * 3000, critical_mask=[1.0] * 3001)
    (example,) = encode_all([item], tokenizer, pytest.fail, limit=1000)
    assert len(example.tokens) == 3004
    with pytest.raises(RowError, match="has 2 entries; expected 3001"):
        encode(record("q", "a" * 3000, critical_mask=[1.0] * 2), tokenizer)


def test_batches_are_limited_by_their_characters(monkeypatch):
    monkeypatch.setattr(chat, "_BATCH_CHARACTERS", 50)
    items = [record("q", "a" * 20) for _ in range(10)]
    batches = list(chat._batches(chat._Rendered(r, "x" * 20, [], None) for r in items))
    assert [len(batch) for batch in batches] == [3, 3, 3, 1]
