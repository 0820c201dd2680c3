"""In which order rows of several sources come, each with its share of every step."""

import math
from collections.abc import Sequence
from fractions import Fraction

# Weights are taken as exact fractions; a common denominator up to this is exact.
_LARGEST_PERIOD = 100_000


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

    if weights is None or len(rows) == 1:
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


def shares(weights: Sequence[float]) -> list[float]:
    """Each weight over their sum."""
    return [weight / sum(weights) for weight in weights]


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
    import numpy as np

    return int(np.random.SeedSequence([seed, source]).generate_state(1)[0])
