"""Tokenized examples as flat arrays, in memory or memory-mapped from the cache."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from targetsft_jax.data.batches import batches
from targetsft_jax.data.chat import Example

# Per-token arrays of every set of examples; further columns are float32.
TOKENS, MASK = "tokens", "loss_mask"

Arrays = dict[str, np.ndarray]

# Encoding of origins: a file name on Linux may be no UTF-8.
_ORIGIN = ("utf-8", "surrogateescape")

# Examples per concatenated part, and tokens after which a part ends.
_PART, _PART_TOKENS = 4096, 1 << 24


@dataclass(frozen=True)
class Examples:
    """N tokenized conversations with T tokens in total, as flat arrays."""

    starts: np.ndarray
    """[N] int64: number of tokens before each example."""
    lengths: np.ndarray
    """[N] int64: tokens of each example."""
    columns: Arrays
    """[T] each: tokens int32, loss_mask bool, and further columns float32."""
    first_trained: np.ndarray
    """[N] int64: position of the first trained token after position 0, which has no
    context to predict it; the example's length if there is none."""
    source: np.ndarray
    """[N] int32: index of each example's source in the config."""
    origins: Sequence[str]
    """[N]: `file:line` of each record, or `kind:split:seed:index` if generated."""

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, number: int, length: int | None = None) -> Example:
        """One example, or its first `length` tokens."""
        start = int(self.starts[number])
        span = slice(start, start + int(length or self.lengths[number]))
        columns = {name: np.array(x[span]) for name, x in self.columns.items()}
        tokens, mask = columns.pop(TOKENS), columns.pop(MASK)
        source = int(self.source[number])
        return Example(tokens, mask, columns, self.origins[number], source)


def flat_parts(examples: Iterable[Example]) -> Iterator[Arrays]:
    """Concatenate examples into 1-D arrays, at most 4,096 examples at a time.

    Yields:
        Parts of the arrays of `from_flat`, to be concatenated.

    Raises:
        ValueError: some examples have a column and others lack it.
    """
    first = None
    for part in batches(examples, _PART, _num_tokens, _PART_TOKENS):
        first = first or part[0]
        _refuse_unequal_columns(first, part)
        origins = [example.origin.encode(*_ORIGIN) for example in part]
        flat = {
            TOKENS: np.concatenate([example.tokens for example in part]),
            MASK: np.concatenate([example.loss_mask for example in part]),
        }
        for name in sorted(first.columns):
            flat[name] = np.concatenate([example.columns[name] for example in part])
        yield flat | {
            "lengths": np.array([len(e.tokens) for e in part], np.int64),
            "first_trained": np.array([_first_trained(e) for e in part], np.int64),
            "source": np.array([e.source for e in part], np.int32),
            "origin_lengths": np.array([len(text) for text in origins], np.int64),
            "origins": np.frombuffer(b"".join(origins), np.uint8),
        }


def _num_tokens(example: Example) -> int:
    return len(example.tokens)


def join_parts(parts: Iterable[Mapping[str, np.ndarray]]) -> Arrays:
    """Concatenate the parts of 1-D arrays.

    Raises:
        ValueError: there are no parts.
    """
    parts = list(parts)
    if not parts:
        raise ValueError("no examples are left to pack; see the report of the data")
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def from_flat(flat: Mapping[str, np.ndarray]) -> Examples:
    """Build examples from the concatenated arrays of `flat_parts`, without a copy."""
    columns = dict(flat)
    lengths = np.asarray(columns.pop("lengths"))
    return Examples(
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        first_trained=np.asarray(columns.pop("first_trained")),
        source=np.asarray(columns.pop("source")),
        origins=_Texts(columns.pop("origin_lengths"), columns.pop("origins")),
        columns=columns,
    )


class _Texts(Sequence[str]):
    """Sequence of strings in two arrays: their lengths and concatenated UTF-8 bytes."""

    def __init__(self, lengths: np.ndarray, text: np.ndarray):
        self._ends, self._text = np.cumsum(lengths), text

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: Any) -> Any:
        start = self._ends[number - 1] if number else 0
        return bytes(self._text[start : self._ends[number]]).decode(*_ORIGIN)


def _first_trained(example: Example) -> int:
    trained = np.flatnonzero(example.loss_mask[1:])
    return int(trained[0]) + 1 if len(trained) else len(example.loss_mask)


def _refuse_unequal_columns(first: Example, examples: Sequence[Example]) -> None:
    for example in examples:
        for name in sorted(example.columns.keys() ^ first.columns.keys()):
            has, lacks = (
                (example, first) if name in example.columns else (first, example)
            )
            raise ValueError(
                f"{lacks.origin} has no {name} and {has.origin} has one; expected the"
                " field in all rows or in none"
            )
