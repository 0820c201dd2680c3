"""Tokenized examples, one behind the other in flat arrays, in memory or on disk."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from targetsft_jax.data.chat import Example

# Per token, in every set of examples; more columns are float32.
TOKENS, MASK = "tokens", "loss_mask"


@dataclass(frozen=True)
class Examples:
    """N tokenized conversations of T tokens in all."""

    starts: np.ndarray
    """[N] int64: how many tokens stand before each example."""
    lengths: np.ndarray
    """[N] int64: tokens of each example."""
    columns: dict[str, np.ndarray]
    """[T] each: tokens int32, loss_mask bool, and further columns float32."""
    first_trained: np.ndarray
    """[N] int64: place of an example's first trained token that has a token before
    it, and so can be predicted; the example's length where there is none."""
    origins: Sequence[str]
    """[N]: the record of each, `file:line` or how it was generated."""

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, number: int, length: int | None = None) -> Example:
        """One example, whole or its first so many tokens."""
        start = int(self.starts[number])
        own = slice(start, start + int(length or self.lengths[number]))
        columns = {name: np.array(x[own]) for name, x in self.columns.items()}
        tokens, mask = columns.pop(TOKENS), columns.pop(MASK)
        return Example(tokens, mask, columns, self.origins[number])


def join(examples: Iterable[Example]) -> Examples:
    """Examples as flat arrays.

    Raises:
        ValueError: no examples; a column that only some examples have.
    """
    examples = list(examples)
    names = _column_names(examples)
    columns = {
        TOKENS: np.concatenate([example.tokens for example in examples]),
        MASK: np.concatenate([example.loss_mask for example in examples]),
    }
    for name in names:
        columns[name] = np.concatenate([e.columns[name] for e in examples])
    lengths = np.array([len(example.tokens) for example in examples], np.int64)
    return Examples(
        np.cumsum(lengths) - lengths,
        lengths,
        columns,
        np.array([_first_trained(example) for example in examples], np.int64),
        [example.origin for example in examples],
    )


def _first_trained(example: Example) -> int:
    trained = np.flatnonzero(example.loss_mask[1:])
    return int(trained[0]) + 1 if len(trained) else len(example.loss_mask)


def _column_names(examples: Sequence[Example]) -> list[str]:
    if not examples:
        raise ValueError("no examples are left to pack; see the report of the data")
    first = examples[0]
    for example in examples:
        for name in sorted(example.columns.keys() ^ first.columns.keys()):
            has, lacks = (
                (example, first) if name in example.columns else (first, example)
            )
            raise ValueError(
                f"{lacks.origin} has no {name}, {has.origin} has; give it to all rows"
                " or to none"
            )
    return sorted(first.columns)
