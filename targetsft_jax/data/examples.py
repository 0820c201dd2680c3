"""Tokenized examples, one behind the other in flat arrays, in memory or on disk."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from targetsft_jax.data.chat import Example

# Per token, in every set of examples; more columns are float32.
TOKENS, MASK = "tokens", "loss_mask"

# Examples that are joined at a time.
_PART = 4096


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


def flat_parts(examples: Iterable[Example]) -> Iterator[dict[str, np.ndarray]]:
    """Examples as flat arrays, some thousands at a time, each to be put end to end.

    Yields:
        Arrays of one axis under the names that `from_flat` reads.

    Raises:
        ValueError: a column that only some examples have.
    """
    left = iter(examples)
    first = None
    while part := list(itertools.islice(left, _PART)):
        first = first or part[0]
        _same_columns(first, part)
        origins = [example.origin.encode() for example in part]
        flat = {
            TOKENS: np.concatenate([example.tokens for example in part]),
            MASK: np.concatenate([example.loss_mask for example in part]),
        }
        for name in sorted(first.columns):
            flat[name] = np.concatenate([example.columns[name] for example in part])
        yield flat | {
            "lengths": np.array([len(e.tokens) for e in part], np.int64),
            "first_trained": np.array([_first_trained(e) for e in part], np.int64),
            "origin_lengths": np.array([len(text) for text in origins], np.int64),
            "origins": np.frombuffer(b"".join(origins), np.uint8),
        }


def put_together(parts: Iterable[Mapping[str, np.ndarray]]) -> Examples:
    """Examples in memory from the arrays of `flat_parts`.

    Raises:
        ValueError: there are none.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("no examples are left to pack; see the report of the data")
    return from_flat(
        {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    )


def from_flat(flat: Mapping[str, np.ndarray]) -> Examples:
    """Examples from the arrays of `flat_parts` put end to end, as memory or maps."""
    columns = dict(flat)
    lengths = np.asarray(columns.pop("lengths"))
    first_trained = np.asarray(columns.pop("first_trained"))
    origins = _Texts(columns.pop("origin_lengths"), columns.pop("origins"))
    starts = np.cumsum(lengths) - lengths
    return Examples(starts, lengths, columns, first_trained, origins)


class _Texts(Sequence[str]):
    """Texts as UTF-8 bytes, one behind the other: millions of them are two arrays."""

    def __init__(self, lengths: np.ndarray, text: np.ndarray):
        self._ends, self._text = np.cumsum(lengths), text

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number):
        start = self._ends[number - 1] if number else 0
        return bytes(self._text[start : self._ends[number]]).decode()


def _first_trained(example: Example) -> int:
    trained = np.flatnonzero(example.loss_mask[1:])
    return int(trained[0]) + 1 if len(trained) else len(example.loss_mask)


def _same_columns(first: Example, examples: Sequence[Example]) -> None:
    for example in examples:
        for name in sorted(example.columns.keys() ^ first.columns.keys()):
            has, lacks = (
                (example, first) if name in example.columns else (first, example)
            )
            raise ValueError(
                f"{lacks.origin} has no {name}, {has.origin} has; give it to all rows"
                " or to none"
            )
