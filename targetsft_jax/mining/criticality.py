"""Critical tokens: those whose replacement makes a correct answer wrong.

    c_t = 1 iff every a ∈ A_t leads to a wrong answer

A_t are the 2nd and 3rd most probable tokens at position t. The answer is y_<t, then a,
then the model's greedy continuation. See *Enhancing Large Language Model Reasoning via
Selective Critical Token Fine-Tuning* (https://arxiv.org/abs/2510.10974).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from targetsft_jax.data.records import Problem
from targetsft_jax.mining.graders import verdicts
from targetsft_jax.mining.sampler import Sampler
from targetsft_jax.mining.settings import MiningSettings


@dataclass(frozen=True)
class Answer:
    """A model's own correct answer.

    Attributes:
        problem: its problem.
        text: the answer.
        prompt: tokens of the prompt.
        tokens: tokens of the answer, which ends in a stop token.
    """

    problem: Problem
    text: str
    prompt: list[int]
    tokens: list[int]


def critical_masks(
    sampler: Sampler,
    answers: Sequence[Answer],
    settings: MiningSettings,
) -> list[list[int]]:
    """Replace each token of each answer by its alternatives, regenerate, and grade.

    The stop token is replaced too: the answer becomes longer. An alternative that is a
    stop token ends the answer. A regenerated answer has the token budget of the
    original one; a truncated answer is wrong.

    Alternatives less probable than `min_probability` are left out of A_t. A token
    without alternatives is not critical: the model would not err there.

    An alternative is generated only while it can change the result: under `all` not
    after one that stays correct, under `any` not after a wrong one.

    Args:
        sampler: the model that gave the answers.
        answers: correct answers.
        settings: ranks of the alternatives, rule, token budget, grader.

    Returns:
        For each answer, 1 for a critical token, else 0; one entry per token.
    """
    ranks = settings.ranks()
    ranked = sampler.alternatives(
        [answer.prompt for answer in answers],
        [answer.tokens for answer in answers],
        ranks,
    )
    needs_all = settings.rule == "all"
    probable = [each.probabilities >= settings.min_probability for each in ranked]
    masks = [(each.any(axis=1) & needs_all).astype(int).tolist() for each in probable]
    undecided = [
        (number, position)
        for number, answer in enumerate(answers)
        for position in range(len(answer.tokens))
    ]
    for column in range(len(ranks)):
        replaced = [
            (number, position, int(ranked[number].tokens[position, column]))
            for number, position in undecided
            if probable[number][position, column]
        ]
        results = _verdicts(sampler, answers, replaced, settings)
        decided = {
            (number, position)
            for (number, position, _), correct in zip(replaced, results)
            if correct == needs_all
        }
        for number, position in decided:
            masks[number][position] = int(not needs_all)
        undecided = [cell for cell in undecided if cell not in decided]
    return masks


def _verdicts(
    sampler: Sampler,
    answers: Sequence[Answer],
    replaced: Sequence[tuple[int, int, int]],
    settings: MiningSettings,
) -> list[bool]:
    """Verdicts of regenerated answers.

    Args:
        sampler, answers, settings: as in `critical_masks`.
        replaced: number of an answer, position in it, and the token to put there.
    """
    stops = set(sampler.stop_ids)
    prefixes = [
        [*answers[number].tokens[:position], token]
        for number, position, token in replaced
    ]
    # An answer whose budget is spent is truncated: nothing is generated.
    is_open = [
        prefix[-1] not in stops and len(prefix) < settings.max_new_tokens
        for prefix in prefixes
    ]
    completions = iter(
        sampler.complete(
            [
                [*answers[number].prompt, *prefix]
                for (number, _, _), prefix, generate in zip(replaced, prefixes, is_open)
                if generate
            ],
            settings.max_new_tokens - 1,
        )
    )
    finished: dict[int, tuple[Problem, str]] = {}
    for index, prefix in enumerate(prefixes):
        problem = answers[replaced[index][0]].problem
        if prefix[-1] in stops:
            finished[index] = problem, sampler.text(prefix[:-1])
        elif is_open[index]:
            completion = next(completions)
            tokens = [*prefix, *completion.tokens]
            if completion.finished and len(tokens) < settings.max_new_tokens:
                finished[index] = problem, sampler.text(tokens)
    results = verdicts(settings.grader, list(finished.values()))
    correct = dict(zip(finished, results))
    return [correct.get(index, False) for index in range(len(replaced))]
