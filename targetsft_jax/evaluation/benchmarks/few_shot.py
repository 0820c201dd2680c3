"""Worked examples before each problem: declaration, choice and rendering."""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from targetsft_jax.data.config import SourceConfig
from targetsft_jax.keys import Domain, at_least, key, section

SEPARATOR = "\n\n"
"""Text between the examples of a plain prompt, as in lm-evaluation-harness."""


@section
class FewShot:
    """Worked examples, drawn for each problem from another source of rows."""

    examples: int = key(0, "Number of examples before each problem.", at_least(0, 256))
    data: SourceConfig | None = key(
        None,
        "Source of the examples, with the fields of the benchmark. null: the training "
        "split of its data set, or its own rows without the problem itself.",
    )
    response: str | None = key(
        None,
        "Field or template of an example's response; null: its gold answer, in the "
        "form that the prompt requests.",
        Domain("a field or template", lambda text: bool(text.strip())),
    )
    seed: int = key(0, "Seed of the choice of examples.", at_least(0))


@dataclass(frozen=True)
class Shot:
    """A worked example.

    Attributes:
        id: id of its row.
        question: its question.
        turn: its prompt.
        response: its response.
    """

    id: str
    question: str
    turn: str
    response: str

    @functools.cached_property
    def normalised_question(self) -> str:
        """Its question without differences of case and white space."""
        return _normalised(self.question)


def choose(
    pool: Sequence[Shot], few_shot: FewShot, problem: str, question: str
) -> list[Shot]:
    """Draw the examples of a problem; those with its question are never among them.

    The choice depends on the seed and the problem alone.

    Args:
        pool: all examples.
        few_shot: number and seed.
        problem: id of the problem.
        question: its question.

    Raises:
        ValueError: too few other examples.
    """
    own = _normalised(question)
    others = [shot for shot in pool if shot.normalised_question != own]
    if len(others) < few_shot.examples:
        raise ValueError(
            f"few_shot.examples is {few_shot.examples}; expected at most the "
            f"{len(others)} examples that have another question than {problem}"
        )
    draw = random.Random(f"{few_shot.seed} {problem}")
    return draw.sample(others, few_shot.examples)


def messages(
    system: str | None, shots: Sequence[Shot], turn: str, *, plain: bool
) -> list[dict[str, str]]:
    """Render a prompt.

    Args:
        system: system message; None: none.
        shots: the examples.
        turn: prompt of the problem.
        plain: one text instead of turns of a chat: examples are separated by a blank
            line, prompt and response by a space.
    """
    if plain:
        texts = [f"{shot.turn} {shot.response}" for shot in shots]
        parts = [*([system] if system else []), *texts, turn]
        return [{"role": "user", "content": SEPARATOR.join(parts)}]
    turns = [{"role": "system", "content": system}] if system else []
    for shot in shots:
        turns.append({"role": "user", "content": shot.turn})
        turns.append({"role": "assistant", "content": shot.response})
    return [*turns, {"role": "user", "content": turn}]


def _normalised(question: str) -> str:
    return " ".join(question.split()).casefold()
