"""Examples under a teacher's own prompt, aligned with those of the student.

A teacher may see more than the student: the reference solution, a hint, documents. The
prompts differ and the responses are equal, so that the n-th trained token of an example
is the same token for both.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.encoding import Encoder
from targetsft_jax.data.examples import MASK, TOKENS, Examples, from_flat, join_parts
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.token_limit import stored_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONE = -1
"""Counterpart of an example that has none."""


def _raise(error: RowError) -> None:
    raise error


def prompted_examples(
    config: DataConfig, tokenizer: "PreTrainedTokenizerBase", prompt: str
) -> Examples:
    """Tokenized examples of a data section under another prompt."""
    encoder = Encoder(config, tokenizer, prompt)
    return from_flat(join_parts(encoder.parts()))


def aligned(
    teacher: Examples,
    student: Examples,
    refuse: Callable[[RowError], None] = _raise,
) -> np.ndarray:
    """Index [N] of the teacher's example for each of the student's, by source and row.

    Args:
        teacher: the examples under the teacher's prompt; those of other rows than the
            student's are ignored.
        student: N examples.
        refuse: called for an example without a counterpart, or with other trained
            tokens; if it returns, the index is `NONE`.

    Raises:
        RowError: by `refuse`, unless it returns.
    """
    places = zip(teacher.source.tolist(), teacher.origins)
    numbers = {place: number for number, place in enumerate(places)}
    result = np.full(len(student), NONE, np.int64)
    limit = stored_tokens(1)
    for number, origin in enumerate(student.origins):
        theirs = numbers.get((int(student.source[number]), origin))
        if theirs is None:
            problem: str | None = (
                "it has no example under teacher.prompt; data.on_bad_row error names "
                "the reason"
            )
        else:
            problem = _difference(student, number, teacher, theirs, limit)
            result[number] = theirs if problem is None else NONE
        if problem is not None:
            refuse(RowError(origin, problem))
    return result


def trained_positions(
    examples: Examples, number: int, length: int | None = None
) -> np.ndarray:
    """Positions of the trained tokens of an example, or of its first `length` tokens.

    The first token has nothing before it that could predict it.
    """
    start = int(examples.starts[number])
    end = start + (int(examples.lengths[number]) if length is None else length)
    trained: np.ndarray = examples.columns[MASK][start + 1 : end]
    positions: np.ndarray = np.flatnonzero(trained) + 1
    return positions


def _difference(
    student: Examples, number: int, teacher: Examples, other: int, limit: int
) -> str | None:
    """First difference of the trained tokens of two examples, in words; None if equal.

    Of examples that were cut at the end (`token_limit`), the common tokens are equal.
    """
    ours, theirs = _trained(student, number), _trained(teacher, other)
    same = min(len(ours), len(theirs))
    is_cut = max(student.lengths[number], teacher.lengths[other]) >= limit
    differs = ours[:same] != theirs[:same]
    if not differs.any() and (is_cut or len(ours) == len(theirs)):
        return None
    first = int(np.argmax(np.append(differs, True)))
    return (
        f"under teacher.prompt the trained tokens differ from the student's at number "
        f"{first} of {len(ours)}, so that the two do not align; end the prompt so that "
        "the response is tokenized alike"
    )


def _trained(examples: Examples, number: int) -> np.ndarray:
    """Trained tokens of an example."""
    at = int(examples.starts[number]) + trained_positions(examples, number)
    tokens: np.ndarray = examples.columns[TOKENS][at]
    return tokens
