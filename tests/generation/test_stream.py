"""Streamed tokens and text against `generate` and the complete decoding."""

import jax
import numpy as np
import pytest
from support.rig import STUDENT, params_of

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.generation import loop
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.stream import stream
from targetsft_jax.generation.text_stream import completion_text, text_pieces

PROMPT = list(range(40, 110))
KEY = jax.random.key(3)


def both(prompt, **settings):
    """Tokens of `stream`, and the completion of `generate`."""
    arguments = {"stop_ids": [], "max_new_tokens": 20, "key": KEY, "vocab_size": 264}
    arguments |= settings
    params = params_of(STUDENT)
    [[completion]] = generate(STUDENT, params, [prompt], **arguments)
    return list(stream(STUDENT, params, prompt, **arguments)), completion


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.7, "top_k": 5, "top_p": 0.9},
    ],
)
def test_tokens_are_those_of_generate(settings):
    tokens, completion = both(PROMPT, **settings)
    assert len(tokens) == 20 and tokens == completion.tokens
    assert len(set(tokens)) > 3


def test_a_stop_token_ends_it_and_is_not_yielded():
    tokens, _ = both(PROMPT)
    stop = tokens[7]
    stopped, completion = both(PROMPT, stop_ids=[stop, 263])
    assert stopped == tokens[: tokens.index(stop)] == completion.tokens
    assert completion.finished


def test_lengths_share_programs():
    programs = (loop.prefill, loop.start, loop.advance)
    sizes = []
    for length, new in ((3, 5), (20, 30), (64, 64), (40, 1)):
        arguments = {"stop_ids": [], "max_new_tokens": new, "key": KEY}
        tokens = stream(STUDENT, params_of(STUDENT), PROMPT[:length], **arguments)
        assert len(list(tokens)) == new
        sizes.append([program._cache_size() for program in programs])
    assert all(size == sizes[0] for size in sizes)


@pytest.mark.parametrize(
    "prompt, settings, message",
    [
        ([], {}, "prompt 0 is empty"),
        ([300], {}, "token 300"),
        ([1], {"temperature": -1.0}, "temperature is -1.0"),
        (list(range(8)) * 120, {}, "positions"),
    ],
)
def test_refused_before_the_first_token(prompt, settings, message):
    arguments = {"stop_ids": [], "max_new_tokens": 4, "key": KEY} | settings
    with pytest.raises(ValueError, match=message):
        stream(STUDENT, params_of(STUDENT), prompt, **arguments)


TEXTS = ["plain", "été 剂量 🙂🏽!", "🙂", "end of half \N{EURO SIGN}", ""]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_pieces_join_to_the_text_and_have_no_halves(text, cut):
    """One token per byte; a cut leaves half a character at the end."""
    tokenizer = byte_tokenizer()
    ids = list(text.encode())
    ids = ids[: len(ids) - cut] + [tokenizer.eos_token_id]
    pieces = list(text_pieces(tokenizer, ids))
    assert "".join(pieces) == completion_text(tokenizer, ids)
    assert not any("\ufffd" in piece for piece in pieces[:-1])
    assert cut or "".join(pieces) == text
    assert all(pieces)


def test_bytes_that_never_become_a_character_are_written():
    tokenizer = byte_tokenizer()
    ids = [0xFF, *b"ok", 0xE2, 0x82, *b" and", 0xF0]
    pieces = list(text_pieces(tokenizer, iter(ids)))
    assert "".join(pieces) == completion_text(tokenizer, ids)
    assert pieces[0].endswith("o") and "".join(pieces).count("\ufffd") >= 3


def test_a_piece_comes_with_its_token():
    """Not at the end: the consumer sees each token before the next is sampled."""
    seen = []

    def tokens():
        for id in b"abc":
            yield id
            seen.append(id)

    for number, piece in enumerate(text_pieces(byte_tokenizer(), tokens())):
        assert piece == "abc"[number] and len(seen) == number
    assert np.array_equal(seen, list(b"abc"))
