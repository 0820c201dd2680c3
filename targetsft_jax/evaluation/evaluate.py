"""Problems in, a score out: sample k answers to each, grade them, aggregate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from targetsft_jax.data.chat import encode_prompt, stop_tokens
from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.graders.answers import extract_answer, is_correct
from targetsft_jax.evaluation.statistics import AverageAtK, average_at_k
from targetsft_jax.generation.generate import generate
from targetsft_jax.models.config import DecoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answered:
    """A problem with the sampled responses and their verdicts; one line of a file."""

    id: str
    answer: str
    responses: list[str]
    correct: list[bool]


def benchmark(
    config: DecoderConfig,
    params: dict[str, Any],
    problems: Sequence[Problem],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    samples: int,
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int,
    **options: Any,
) -> tuple[AverageAtK, list[Answered]]:
    """Average@k of a model on problems.

    Args:
        config, params: the model.
        problems: what is asked, with the answers.
        tokenizer: its tokenizer; the chat template makes the prompts.
        samples: k.
        max_new_tokens: an answer that is longer counts as truncated, and wrong.
        temperature, top_p, top_k: of sampling.
        seed: of sampling; equal seeds sample equally.
        **options: more arguments of `generate`.

    Returns:
        The score, and every problem with its responses.
    """
    completions = generate(
        config,
        params,
        [encode_prompt(problem.messages, tokenizer).tolist() for problem in problems],
        samples=samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        stop_ids=stop_tokens(tokenizer),
        key=jax.random.key(seed),
        vocab_size=min(len(tokenizer), config.vocab_size),
        **options,
    )
    answered, stated = [], []
    for problem, sampled in zip(problems, completions):
        texts = [tokenizer.decode(c.tokens, skip_special_tokens=True) for c in sampled]
        # What was cut off is wrong, even if an early line looks like an answer.
        correct = [
            c.finished and is_correct(text, problem.answer)
            for c, text in zip(sampled, texts)
        ]
        answered.append(Answered(problem.id, problem.answer, texts, correct))
        stated.append([extract_answer(text) is not None for text in texts])
    cut = [[not c.finished for c in sampled] for sampled in completions]
    score = average_at_k(
        np.array([a.correct for a in answered]),
        answered=np.array(stated),
        truncated=np.array(cut),
    )
    return score, answered
