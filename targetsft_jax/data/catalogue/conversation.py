"""Render examples of the catalogue as a prompt and a response."""

from collections.abc import Mapping
from typing import Any

from targetsft_jax.data.catalogue.entry import LETTERS, Example, boxed_answer
from targetsft_jax.data.fields import FieldMap

# Increment `token_cache.VERSION` when the text changes.
TRAIN = FieldMap(messages=None, prompt="prompt", response="response")
EVALUATE = FieldMap(messages=None, prompt="prompt", answer="answer")


def as_row(example: Example) -> Mapping[str, Any]:
    r"""Add a prompt and a response to the fields of an example.

    `options` become lines "A. …". `prompt` is the question followed by these lines.
    `response` is the reasoning; if that does not end in the answer, a line
    "The answer is \boxed{…}." follows.
    """
    options = [f"{a}. {text}" for a, text in zip(LETTERS, example["options"])]
    return example | {
        "options": options,
        "prompt": "\n".join([example["question"], *options]),
        "response": _response(example["reasoning"], example["answer"]),
    }


def _response(reasoning: str, answer: str) -> str:
    if not answer or (reasoning and _ends_in(reasoning, answer)):
        return reasoning
    final = f"The answer is \\boxed{{{answer}}}."
    return f"{reasoning}\n\n{final}" if reasoning else final


def _ends_in(reasoning: str, answer: str) -> bool:
    """True if the last box contains the answer, or the last line ends in it."""
    if boxed_answer(reasoning) == answer:
        return True
    last = reasoning.rsplit("\n", 1)[-1].rstrip(" .$)*")
    before = last[: -len(answer)]
    return last.endswith(answer) and not (before and before[-1].isalnum())
