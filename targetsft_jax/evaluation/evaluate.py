"""Evaluate a model on problems: sample k completions of each, grade, aggregate."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from targetsft_jax.data.chat import encode_prompt, stop_tokens
from targetsft_jax.data.records import Problem
from targetsft_jax.evaluation.graders.grade import UNANSWERED
from targetsft_jax.evaluation.grading import (
    GradingRequest,
    check_answers,
    grade_answers,
)
from targetsft_jax.evaluation.statistics import AverageAtK, average_at_k
from targetsft_jax.generation.generate import generate
from targetsft_jax.generation.sampling import SamplingSettings
from targetsft_jax.models.config import DecoderConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class GradedProblem:
    """A problem with its sampled completions and their verdicts.

    Attributes:
        id: id of the problem.
        answer: its gold answer.
        completions: texts of the k completions, without special tokens.
        correct: verdict of each completion.
    """

    id: str
    answer: str
    completions: list[str]
    correct: list[bool]

    def row(self) -> dict[str, Any]:
        """JSON row of a file of graded problems."""
        return {
            "id": self.id,
            "answer": self.answer,
            "completions": self.completions,
            "correct": self.correct,
        }


def evaluate_model(
    config: DecoderConfig,
    params: dict,
    problems: Sequence[Problem],
    tokenizer: "PreTrainedTokenizerBase",
    settings: SamplingSettings,
    *,
    seed: int,
    dtype: DTypeLike = jnp.float32,
    batch_size: int | None = None,
    row_sharding: NamedSharding | None = None,
    grader: str = "exact",
) -> tuple[AverageAtK, list[GradedProblem]]:
    """Sample k completions per problem and compute the Average@k of a model.

    A completion that reaches `max_new_tokens` is truncated and counts as wrong, even if
    it states the answer.

    Args:
        config: the decoder.
        params: its parameters, on one device or on a mesh.
        problems: prompts with gold answers.
        tokenizer: the model's tokenizer; its chat template renders the prompts.
        settings: sampling settings; `samples` is k.
        seed: sampling seed; equal seeds result in equal completions.
        dtype, batch_size, row_sharding: as in `generate`.
        grader: name of the grader.

    Returns:
        The score, and every problem with its graded completions.

    Raises:
        ValueError: as `generate`; a gold answer that cannot be compared; a prompt that
            its chat template refuses, whose text is read as a control token, or that
            leaves no position for a completion.
    """
    check_answers(grader, problems)
    completions = generate(
        config,
        params,
        _prompts(config, problems, tokenizer, settings.max_new_tokens),
        samples=settings.samples,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        top_k=settings.top_k,
        stop_ids=stop_tokens(tokenizer),
        key=jax.random.key(seed),
        vocab_size=min(len(tokenizer), config.vocab_size),
        dtype=dtype,
        batch_size=batch_size,
        row_sharding=row_sharding,
    )
    texts = [
        [str(tokenizer.decode(x.tokens, skip_special_tokens=True)) for x in samples]
        for samples in completions
    ]
    requests = [
        GradingRequest(grader, text, problem.answer)
        for problem, answers in zip(problems, texts)
        for text in answers
    ]
    grades = iter(grade_answers(requests))
    graded, has_answer = [], []
    for problem, samples, answers in zip(problems, completions, texts):
        verdicts = [next(grades) for _ in samples]
        correct = [x.finished and g.correct for x, g in zip(samples, verdicts)]
        graded.append(GradedProblem(problem.id, problem.answer, answers, correct))
        has_answer.append([g.how not in UNANSWERED for g in verdicts])
    score = average_at_k(
        np.array([problem.correct for problem in graded]),
        has_answer=np.array(has_answer),
        truncated=np.array(
            [[not sample.finished for sample in samples] for samples in completions]
        ),
    )
    return score, graded


def _prompts(
    config: DecoderConfig,
    problems: Sequence[Problem],
    tokenizer: "PreTrainedTokenizerBase",
    max_new_tokens: int,
) -> list[list[int]]:
    """Tokens of each problem's prompt, fewer than the model's positions.

    Completions may go on beyond these positions, as in published evaluations; the
    number of problems where that can happen is printed.
    """
    positions = config.context_length
    prompts = [
        encode_prompt(
            problem.messages, tokenizer, origin=problem.id, limit=positions - 1
        ).tolist()
        for problem in problems
    ]
    beyond = sum(len(prompt) + max_new_tokens > positions for prompt in prompts)
    if beyond:
        print(
            f"  {beyond:,} of {len(prompts):,} problems leave fewer than"
            f" {max_new_tokens:,} of the model's {positions:,} positions: their"
            " completions may go beyond them"
        )
    return prompts
