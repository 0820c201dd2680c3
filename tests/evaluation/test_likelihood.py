"""Log-probabilities of options against a computation in float64, and their verdicts."""

import jax
import numpy as np
import pytest
from support import rig

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.evaluation.likelihood import (
    Likelihood,
    likelihood,
    log_likelihoods,
    plain_pair,
)
from targetsft_jax.models import decoder
from targetsft_jax.parallel.mesh import make_mesh, rows_over


def _pairs(seed=0, lengths=((3, 2), (9, 1), (5, 7), (40, 9), (3, 2), (1, 1))):
    rng = np.random.default_rng(seed)
    return [
        (rng.integers(0, 256, a).tolist(), rng.integers(0, 256, b).tolist())
        for a, b in lengths
    ]


@jax.jit
def _hidden(tokens):
    return decoder.apply(rig.STUDENT, rig.params_of(rig.STUDENT), tokens)


def _by_hand(pair):
    """Sum of log p in float64; the later tokens of a causal model have no effect."""
    context, continuation = pair
    params = rig.params_of(rig.STUDENT)
    tokens = np.full((1, 50), 7, np.int32)
    tokens[0, : len(context) + len(continuation)] = [*context, *continuation]
    hidden = np.asarray(_hidden(tokens)[0], np.float64)
    head = np.asarray(decoder.head(params), np.float64)[: rig.VOCABULARY]
    logits = hidden @ head.T
    logits -= logits.max(axis=1, keepdims=True)
    logprob = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    at = len(context) - 1 + np.arange(len(continuation))
    return logprob[at, continuation].sum()


def _scored(pairs, **options):
    params = rig.params_of(rig.STUDENT)
    return log_likelihoods(
        rig.STUDENT, params, pairs, vocab_size=rig.VOCABULARY, **options
    )


def test_the_sums_are_those_of_float64():
    pairs = _pairs()
    expected = [_by_hand(pair) for pair in pairs]
    np.testing.assert_allclose(_scored(pairs), expected, rtol=2e-5)
    order = [4, 0, 3, 5, 1, 2]
    np.testing.assert_allclose(
        _scored([pairs[n] for n in order]), np.take(expected, order), rtol=2e-5
    )


def test_rows_may_be_sharded():
    pairs = _pairs(1, ((3, 2),) * 5)
    sharded = _scored(pairs, row_sharding=rows_over(make_mesh(4, 2, 1)))
    np.testing.assert_allclose(sharded, _scored(pairs), rtol=1e-5)


@pytest.mark.parametrize(
    "pair, message",
    [
        (([], [1]), "a context or continuation is empty"),
        (([1], []), "a context or continuation is empty"),
        (([1] * 959, [1, 2]), "have 961 tokens, and the model has 960 positions"),
    ],
)
def test_impossible_pairs_are_refused(pair, message):
    with pytest.raises(ValueError, match=message):
        _scored([([1], [2]), pair])


def test_the_metrics_are_those_of_lm_evaluation_harness():
    """Their formulas, written out: by characters, and by bytes."""
    scored = likelihood([-4.0, -6.0, -5.0], ["a", "abc", "üß"])
    assert scored.characters == [1, 3, 2] and scored.bytes == [1, 3, 4]
    # −4, −6, −5; −4, −2, −2.5; −4, −2, −1.25
    assert scored.choices() == {"acc": 0, "acc_norm": 1, "acc_bytes": 2}
    assert scored.grade("A", "ABC").correct and not scored.grade("B", "ABC").correct
    assert scored.grade("B", "ABC").extracted == "A"
    # As numpy's argmax: the first of equal ones.
    assert Likelihood([-1.0, -1.0], [1, 1], [1, 1]).choices()["acc"] == 0


def test_white_space_before_an_option_belongs_to_the_option():
    tokenizer = byte_tokenizer()
    for context, before, after in (
        ("Answer:", "Answer:", " yes"),
        ("Answer: ", "Answer:", "  yes"),
        ("Answer:\n", "Answer:", "\n yes"),
    ):
        pair = plain_pair(context, "yes", tokenizer, "row 1")
        assert tuple(map(bytes, pair)) == (before.encode(), after.encode())


def test_tokens_across_the_border_are_those_of_both_texts(monkeypatch):
    """A tokenizer that joins letters: only the tokens behind the context count."""

    def pairs_of_letters(text, verbose=False):
        return {"input_ids": [text[n : n + 2] for n in range(0, len(text), 2)]}

    assert plain_pair("ab", "c", pairs_of_letters, "") == (["ab"], [" c"])
    assert plain_pair("abc", "d", pairs_of_letters, "") == (["ab", "c"], ["d"])
