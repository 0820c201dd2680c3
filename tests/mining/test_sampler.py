"""Alternatives and completions of a model, against its logits one prefix at a time."""

import jax
import numpy as np
import pytest
from support import rig

from targetsft_jax.data.tokenizer import byte_tokenizer
from targetsft_jax.mining import sampler as module
from targetsft_jax.mining.sampler import ModelSampler
from targetsft_jax.models.decoder import apply, head

TOKENIZER = byte_tokenizer()
PROMPTS = [[5, 9, 11], [70, 71, 72, 73, 74]]
ANSWERS = [[40, 41, 257], list(range(100, 104))]


@pytest.fixture
def sampler() -> ModelSampler:
    return ModelSampler(rig.STUDENT, rig.params_of(rig.STUDENT), TOKENIZER, 2)


@jax.jit
def _hidden(params: dict, tokens: jax.Array) -> jax.Array:
    return apply(rig.STUDENT, params, tokens)


def probabilities(prefix: list[int]) -> np.ndarray:
    """Probabilities of the next token."""
    tokens = np.zeros((1, 16), np.int32)
    tokens[0, : len(prefix)] = prefix
    params = rig.params_of(rig.STUDENT)
    hidden = np.asarray(_hidden(params, tokens))[0, len(prefix) - 1]
    logits = (head(params) @ hidden)[: len(TOKENIZER)]
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def test_alternatives_are_the_most_probable_other_tokens(sampler):
    ranked = sampler.alternatives(PROMPTS, ANSWERS, [4, 2])
    for prompt, answer, alternatives in zip(PROMPTS, ANSWERS, ranked):
        assert alternatives.tokens.shape == (len(answer), 2)
        for position, token in enumerate(answer):
            expected = probabilities([*prompt, *answer[:position]])
            others = [t for t in np.argsort(-expected, kind="stable") if t != token]
            best = [others[2], others[0]]
            assert alternatives.tokens[position].tolist() == best
            np.testing.assert_allclose(
                alternatives.probabilities[position], expected[best], rtol=1e-4
            )


def test_completions_are_greedy(sampler):
    for prompt, completion in zip(PROMPTS, sampler.complete(PROMPTS, 3)):
        prefix = list(prompt)
        for token in completion.tokens:
            assert token == probabilities(prefix).argmax()
            prefix.append(token)


def test_nothing_is_generated_for_no_prompts(sampler):
    assert sampler.complete([], 3) == []
    assert sampler.alternatives([], [], [2, 3]) == []


def test_batches_have_few_sizes(monkeypatch):
    sizes = set()

    def generate(config, params, prompts, *, batch_size, **options):
        assert len(prompts) == batch_size
        sizes.add(batch_size)
        return [[prompt] for prompt in prompts]

    monkeypatch.setattr(module, "generate", generate)
    monkeypatch.setattr(module, "decoding_weights", lambda params, dtype: params)
    sampler = ModelSampler(rig.STUDENT, {}, TOKENIZER, 16)
    for count in range(1, 40):
        prompts = [[number] * (1 + 90 * (number % 2)) for number in range(count)]
        assert sampler.complete(prompts, 3) == prompts
    assert sizes == {1, 2, 4, 8, 16}
