"""Examples under a teacher's own prompt, aligned with those of the student.

A teacher may see more than the student: the reference solution, a hint, documents. The
prompts differ and the responses are equal, so that the n-th trained token of an example
is the same token for both.
"""

from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.encoding import Encoder
from targetsft_jax.data.examples import MASK, TOKENS, Examples, from_flat, join_parts
from targetsft_jax.data.row_error import RowError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompted_examples(
    config: DataConfig, tokenizer: "PreTrainedTokenizerBase", prompt: str
) -> Examples:
    """Tokenized examples of a data section under another prompt."""
    encoder = Encoder(config, tokenizer, prompt)
    return from_flat(join_parts(encoder.parts()))


def aligned(teacher: Examples, student: Examples) -> np.ndarray:
    """Index [N] of the student's example for each of the teacher's, by origin.

    Raises:
        RowError: an example without a counterpart, or with other trained tokens.
    """
    numbers = {origin: number for number, origin in enumerate(student.origins)}
    result = np.zeros(len(teacher), np.int64)
    for number, origin in enumerate(teacher.origins):
        if origin not in numbers:
            raise RowError(origin, "the student has no example of this row")
        result[number] = numbers.pop(origin)
        ours, theirs = (
            _trained(examples, int(index))
            for examples, index in ((student, result[number]), (teacher, number))
        )
        if len(ours) != len(theirs) or np.any(ours != theirs):
            same = min(len(ours), len(theirs))
            first = int(np.argmin(np.append(ours[:same] == theirs[:same], False)))
            raise RowError(
                origin,
                f"under teacher.prompt the trained tokens differ from the student's at "
                f"number {first} of {len(ours)}, so that the two do not align; end the "
                "prompt so that the response is tokenized alike",
            )
    if numbers:
        raise RowError(next(iter(numbers)), "under teacher.prompt there is no example")
    return result


def _trained(examples: Examples, number: int) -> np.ndarray:
    """Trained tokens of an example; the first token has nothing before it."""
    start = int(examples.starts[number])
    part = slice(start + 1, start + int(examples.lengths[number]))
    tokens: np.ndarray = examples.columns[TOKENS][part][examples.columns[MASK][part]]
    return tokens
