"""A model's own greedy answers: graded, and tokenized as for training."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from targetsft_jax.data.chat import encode
from targetsft_jax.data.record import Record
from targetsft_jax.data.records import Problem
from targetsft_jax.data.row_error import RowError
from targetsft_jax.mining.criticality import Answer
from targetsft_jax.mining.graders import verdicts
from targetsft_jax.mining.sampler import Sampler
from targetsft_jax.mining.settings import MiningSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SKIPPED = {
    "wrong": "the greedy answer is wrong",
    "truncated": "the greedy answer has more than max_new_tokens tokens",
    "retokenized": "the chat template or tokenizer gives the answer other tokens",
    "positions": "prompt and answer exceed the model's positions",
}
"""Reasons for which a problem has no row, with their descriptions."""


def greedy_answers(
    sampler: Sampler,
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    prompts: Sequence[list[int]],
    settings: MiningSettings,
    positions: int,
) -> list[Answer | str]:
    """Answer problems greedily, and verify the answers.

    Args:
        sampler: the model.
        tokenizer: its tokenizer, with the chat template.
        problems: problems with gold answers.
        prompts: tokens of each problem's prompt.
        settings: token budget and grader.
        positions: positions of the model.

    Returns:
        For each problem its correct answer, or a key of `SKIPPED`.
    """
    completions = sampler.complete(prompts, settings.max_new_tokens)
    texts = [sampler.text(completion.tokens) for completion in completions]
    grades = verdicts(settings.grader, list(zip(problems, texts)))
    results: list[Answer | str] = []
    for problem, prompt, completion, text, correct in zip(
        problems, prompts, completions, texts, grades
    ):
        if not completion.finished:
            results.append("truncated")
        elif not correct:
            results.append("wrong")
        elif len(prompt) + len(completion.tokens) + 1 > positions:
            results.append("positions")
        else:
            tokens = _trained_tokens(tokenizer, problem, prompt, text)
            same = tokens[:-1] == completion.tokens and tokens[-1:] != []
            if same and tokens[-1] in sampler.stop_ids:
                results.append(Answer(problem, text, prompt, tokens))
            else:
                results.append("retokenized")
    return results


def conversation(problem: Problem, text: str) -> list[dict[str, str]]:
    """Messages of a problem and its answer."""
    return [*problem.messages, {"role": "assistant", "content": text}]


def _trained_tokens(
    tokenizer: "PreTrainedTokenizerBase",
    problem: Problem,
    prompt: list[int],
    text: str,
) -> list[int]:
    """Tokens that a training on the conversation trains, if they follow the prompt.

    Empty if the conversation cannot be used, has other tokens before the answer, or
    trains other turns too: the mask would then not belong to the answer's tokens.
    """
    record = Record(conversation(problem, text), problem.answer, origin=problem.id)
    try:
        example = encode(record, tokenizer)
    except RowError:
        return []
    start, trained = len(prompt), int(example.loss_mask.sum())
    follows = example.loss_mask[start : start + trained].all()
    if not follows or example.tokens[:start].tolist() != prompt:
        return []
    tokens: list[int] = example.tokens[start : start + trained].tolist()
    return tokens
