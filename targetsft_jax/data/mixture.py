"""Several sources: each packed apart, and with its share of every step."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from targetsft_jax.data import packing
from targetsft_jax.data.config import DataConfig, source_name, sources
from targetsft_jax.data.packing import Layout
from targetsft_jax.data.report import Report

# Weights are taken as exact fractions; a common denominator up to this is exact.
_LARGEST_PERIOD = 100_000


def arrange(
    config: DataConfig, report: Report, numbers: np.ndarray, lengths: np.ndarray
) -> Layout:
    """Lays examples out in rows: all together, or with weights each source apart.

    Args:
        config: its mixture and how it packs.
        report: says how many examples each source has, in order (`encoded`); is told
            what becomes of them.
        numbers, lengths: as for `packing.arrange`.

    Returns:
        The layout; with weights, the rows of one source after those of another.

    Raises:
        ValueError: a source that has a weight has no example.
    """
    own = sources(config)
    names = [source_name(source) for source in own]
    ends = np.cumsum([report.by_source.get(n, {}).get("encoded", 0) for n in names])
    of = np.searchsorted(ends, numbers, side="right")
    for i, name in enumerate(names):
        mine = of == i
        report.note("examples", name, int(mine.sum()))
        report.note("tokens", name, int(lengths[mine].sum()))

    def rows_of(mine) -> Layout:
        length = config.max_length
        return packing.arrange(
            numbers[mine], lengths[mine], length, packing=config.packing
        )

    if own[0].weight is None:
        return rows_of(slice(None))
    parts = []
    for i, name in enumerate(names):
        if not (of == i).any():
            raise ValueError(
                f"data.mixture[{i}] ({name}) has no example left to train on, and a"
                f" weight:\n{report}"
            )
        parts.append(rows_of(of == i))
        report.note("packed_rows", name, parts[-1].rows)
    weights = [source.weight or 0.0 for source in own]
    report.weights = dict(zip(names, weights))
    before = np.cumsum([0, *(len(part.examples) for part in parts)])
    return Layout(
        np.concatenate([part.examples for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.row_ends + n for part, n in zip(parts, before)]),
        config.max_length,
    )


def parts(report: Report) -> tuple[tuple[int, ...], tuple[float, ...] | None]:
    """How many rows of tokens each source has, and its weight, for `order`."""
    if not report.weights:
        return (report.packed_rows,), None
    rows = tuple(report.by_source[name]["packed_rows"] for name in report.weights)
    return rows, tuple(report.weights.values())


def order(rows: Sequence[int], weights: Sequence[float] | None, seed: int):
    """Row numbers without end, each a function of its place alone.

    Args:
        rows: of each source; the rows of all are numbered one source after another.
        weights: of each source; None: all rows once an epoch, in one shuffle.
        seed: of the shuffles.

    Returns:
        A grain MapDataset of ints. Without weights every epoch has each row once, in
        an order of its own. With weights, among the first n rows those of a source
        are its share of n to within one, for every n; a source's rows come in
        passes, each of which has every row once, in an order of its own.
    """
    import grain

    if weights is None:
        return grain.MapDataset.range(sum(rows)).seed(seed).shuffle().repeat()
    starts = [sum(rows[:i]) for i in range(len(rows))]
    passes = [
        grain.MapDataset.range(start, start + n).seed(_own(seed, i)).shuffle().repeat()
        for i, (start, n) in enumerate(zip(starts, rows))
    ]
    turns = _turns(whole_shares(weights))

    class Selection(grain.transforms.DatasetSelectionMap):
        def __len__(self) -> int:
            return 2**62

        def __getitem__(self, index: int) -> tuple[int, int]:
            period, place = divmod(index, len(turns))
            source, before, in_period = turns[place]
            return source, period * in_period + before

    return grain.MapDataset.select_from_datasets(passes, Selection())


def whole_shares(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in the proportions of the weights as written.

    0.7 and 0.3 are 7 and 3. Where they would add up to more than a hundred
    thousand, each share is rounded to such a part, and to one at least.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    total = sum(exact)
    parts = [share / total for share in exact]
    common = math.lcm(*(part.denominator for part in parts))
    if common > _LARGEST_PERIOD:
        return [max(1, round(part * _LARGEST_PERIOD)) for part in parts]
    return [int(part * common) for part in parts]


def _turns(counts: Sequence[int]) -> list[tuple[int, int, int]]:
    """Whose turn it is at each place of a period: (source, its rows before, in all).

    The turn number n of a source may come from place ⌊n·P/c⌋ on and must have come
    before place ⌈(n + 1)·P/c⌉, P being the period and c its count. Whoever may come
    and must come first is next: this keeps every count within one of its share.
    """
    period = sum(counts)
    have = [0] * len(counts)
    turns = []
    for place in range(period):
        _, source = min(
            (-(-(have[i] + 1) * period // counts[i]), i)
            for i in range(len(counts))
            if have[i] * period < counts[i] * (place + 1)
        )
        turns.append((source, have[source], counts[source]))
        have[source] += 1
    return turns


def _own(seed: int, source: int) -> int:
    """A seed for a source's shuffle, so that equal sources differ in order."""
    return int(np.random.SeedSequence([seed, source]).generate_state(1)[0])
