"""Mixtures: weighted sources, packed separately and interleaved by weight."""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from targetsft_jax.data import packing
from targetsft_jax.data.config import DataConfig, sources
from targetsft_jax.data.packing import RowLayout

# Largest common denominator of the weights for which shares are exact.
_LARGEST_PERIOD = 100_000


def pack_sources(
    config: DataConfig,
    source: np.ndarray,
    numbers: np.ndarray,
    lengths: np.ndarray,
    teacher: tuple[np.ndarray, int] | None = None,
) -> RowLayout:
    """Pack examples into rows: all together, or by source if the sources have weights.

    Args:
        config: the sources with their weights, the row length and `packing`.
        source: [K] int, index of each example's source; every weighted source has at
            least one example.
        numbers, lengths, teacher: as in `packing.pack`.

    Returns:
        The layout; with weights, the rows are in the order of the sources.
    """

    def pack(chosen: Any) -> RowLayout:
        return packing.pack(
            numbers[chosen],
            lengths[chosen],
            config.max_length,
            packing=config.packing,
            teacher=teacher and (teacher[0][chosen], teacher[1]),
        )

    weights = [part.weight for part in sources(config)]
    if weights[0] is None:
        return pack(slice(None))
    return packing.concatenate(
        [pack(source == i) for i in range(len(weights))],
        [weight or 0.0 for weight in weights],
    )


def row_order(
    source_rows: Sequence[int], weights: Sequence[float] | None, seed: int
) -> Any:
    """Infinite sequence of row indices; entry i is a function of i alone.

    Args:
        source_rows: number of rows of each source; rows are numbered source by source.
        weights: weight of each source; None: every row once per epoch, in one shuffle.
        seed: seed of the shuffles.

    Returns:
        A grain MapDataset of ints. Without weights each epoch is a new permutation of
        all rows. With weights the first n rows contain each source's share of n to
        within one row, for every n, and the rows of a source come in passes, each a new
        permutation.
    """
    import grain

    if weights is None:
        return grain.MapDataset.range(sum(source_rows)).seed(seed).shuffle().repeat()
    starts = [sum(source_rows[:i]) for i in range(len(source_rows))]
    passes = [
        grain.MapDataset.range(start, start + n)
        .seed(_source_seed(seed, i))
        .shuffle()
        .repeat()
        for i, (start, n) in enumerate(zip(starts, source_rows))
    ]
    turns = _turns(whole_shares(weights))

    class Selection(grain.transforms.DatasetSelectionMap):
        def __len__(self) -> int:
            return 2**62

        def __getitem__(self, index: int) -> tuple[int, int]:
            period, position = divmod(index, len(turns))
            source, before, in_period = turns[position]
            return source, period * in_period + before

    return grain.MapDataset.select_from_datasets(passes, Selection())


def rows_of_sources(weights: Sequence[float], n: int) -> list[int]:
    """Number of rows of each source among the first n rows of `row_order`.

    Args:
        weights: weight of each source.
        n: 0 or more.
    """
    counts = whole_shares(weights)
    periods, position = divmod(n, sum(counts))
    last = [source for source, _, _ in _turns(counts)[:position]]
    return [periods * count + last.count(i) for i, count in enumerate(counts)]


def whole_shares(weights: Sequence[float]) -> list[int]:
    """Smallest integers in proportion to the weights.

    Weights are exact decimal fractions: 0.7 and 0.3 become 7 and 3. If the common
    denominator exceeds 100,000, each share is rounded to a multiple of 1/100,000, and
    to at least one.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact)
    shares = [weight / total for weight in exact]
    common = math.lcm(*(share.denominator for share in shares))
    if common > _LARGEST_PERIOD:
        return [max(1, round(share * _LARGEST_PERIOD)) for share in shares]
    return [int(share * common) for share in shares]


def _turns(counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Schedule of one period: (source, its earlier rows, its rows) at each position.

    Turn n of a source is released at position ⌊n·P/c⌋ and due before ⌈(n + 1)·P/c⌉,
    where P is the period and c the count of the source. The released turn with the
    earliest deadline is next, which keeps every count within one of its share.
    """
    period = sum(counts)
    placed = [0] * len(counts)
    turns = []
    for position in range(period):
        _, source = min(
            (-(-(placed[i] + 1) * period // counts[i]), i)
            for i in range(len(counts))
            if placed[i] * period < counts[i] * (position + 1)
        )
        turns.append((source, placed[source], counts[source]))
        placed[source] += 1
    return turns


def _source_seed(seed: int, source: int) -> int:
    """The shuffle seed of a source, so that equal sources differ in order."""
    return int(np.random.SeedSequence([seed, source]).generate_state(1)[0])
