"""Examples of any length as rows of one length."""

from dataclasses import dataclass

import numpy as np

from targetsft_jax.data.examples import MASK, TOKENS, Examples
from targetsft_jax.data.report import Report

# Rows that are filled at a time, by the longest examples first. More fill rows better,
# cost time, and let examples of like length gather.
_OPEN_ROWS = 1024


@dataclass(frozen=True)
class Layout:
    """Which examples lie in which of R rows, and how much of each."""

    examples: np.ndarray
    """[S] int64, numbers of the examples, row after row as they stand there."""
    lengths: np.ndarray
    """[S] int64, the first so many tokens of each."""
    row_ends: np.ndarray
    """[R] int64: how many of the S lie up to the end of each row."""
    row_length: int
    """L, the places in a row."""

    @property
    def rows(self) -> int:
        """R."""
        return len(self.row_ends)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it but L, under the names of the fields."""
        names = ("examples", "lengths", "row_ends")
        return {name: np.asarray(getattr(self, name), np.int64) for name in names}

    def segments(self, row: int) -> slice:
        """Which of the S lie in a row."""
        start = int(self.row_ends[row - 1]) if row else 0
        return slice(start, int(self.row_ends[row]))


def fit(
    examples: Examples, max_length: int, overlong: str, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Which examples are used, and how much of each, so that it fits a row.

    Args:
        examples: as encoded.
        max_length: L, the length of a row.
        overlong: `truncate` keeps the first L tokens, `drop` leaves the example out,
            `error` raises.
        report: counts what was truncated or dropped.

    Returns:
        Numbers of the examples [K] int64, and their lengths [K] int64, 2 to L.

    Raises:
        ValueError: an example is longer than a row and `overlong` is `error`.
    """
    lengths = examples.lengths
    cut = lengths > max_length
    if overlong == "error" and cut.any():
        first = int(np.argmax(cut))
        raise ValueError(
            f"{examples.origins[first]}: {lengths[first]} tokens, data.max_length is"
            f" {max_length}; raise it, or set data.overlong to truncate or drop"
        )
    # The first token has nothing before it to be predicted from.
    trained = examples.first_trained < np.minimum(lengths, max_length)
    kept = trained & ~cut if overlong == "drop" else trained
    untrained = ~trained & ~cut
    report.drop("nothing is trained after the first token", int(untrained.sum()))
    if overlong == "drop":
        report.drop("longer than a row", int(cut.sum()))
    else:
        lost = cut & ~trained
        report.drop("nothing trained is left after truncation", int(lost.sum()))
        report.truncated += int((cut & kept).sum())
    numbers = np.flatnonzero(kept)
    return numbers, np.minimum(lengths[numbers], max_length)


def arrange(
    numbers: np.ndarray,
    lengths: np.ndarray,
    max_length: int,
    *,
    packing: bool = True,
) -> Layout:
    """Lays examples out in rows, from their lengths alone.

    Args:
        numbers: [K] int64, which examples, in the order in which they are packed.
        lengths: [K] int64, none longer than `max_length`; at least one.
        max_length: L.
        packing: several examples a row, the longest first, or one example a row.
    """
    if not packing:
        ends = np.arange(1, len(numbers) + 1)
        return Layout(numbers, lengths, ends, max_length)
    ends = np.cumsum(lengths)
    # As many examples at a time as fill the open rows, so that none is given up half
    # empty for a longer example; within them the longest first, as small ones fit into
    # what is left at the end.
    window = (ends - 1) // max(1, _OPEN_ROWS * max_length * 9 // 10)
    order = np.lexsort((-lengths, window))
    parts = np.split(order, np.flatnonzero(np.diff(window)) + 1)
    rows = [row for part in parts for row in _packed(part, lengths, max_length)]
    placed = np.concatenate(rows)
    row_ends = np.cumsum([len(row) for row in rows])
    return Layout(numbers[placed], lengths[placed], row_ends, max_length)


def lay_out(
    examples: Examples, layout: Layout, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The tokens of some rows.

    Args:
        examples: that the layout is of.
        layout: of R rows of L places.
        rows: [n] int, 0 to R - 1, in any order.

    Returns:
        tokens [n, L] int32, 0 in padding;
        labels [n, L] int32, the next token of the same segment, 0 at its last place;
        loss_mask [n, L] bool, whether the label is trained;
        segment_ids [n, L] int32, 1, 2, … within a row and 0 in padding;
        positions [n, L] int32, from 0 in each segment;
        every column [n, L] float32, beside the label it belongs to, 0 elsewhere.
    """
    shape = (len(rows), layout.row_length)
    found = {
        name: np.zeros(shape, values.dtype) for name, values in examples.columns.items()
    }
    labels = np.zeros(shape, np.int32)
    segment_ids = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    counting = np.arange(layout.row_length, dtype=np.int32)
    tokens = examples.columns[TOKENS]
    # What stands beside its label moves one place to the front.
    beside = [(found[name], examples.columns[name]) for name in found if name != TOKENS]
    beside.append((labels, tokens))
    for i, row in enumerate(rows):
        at = 0
        part = layout.segments(int(row))
        chosen, lengths = layout.examples[part], layout.lengths[part].tolist()
        starts = examples.starts[chosen].tolist()
        for segment, (start, n) in enumerate(zip(starts, lengths), 1):
            found[TOKENS][i, at : at + n] = tokens[start : start + n]
            for target, source in beside:
                target[i, at : at + n - 1] = source[start + 1 : start + n]
            segment_ids[i, at : at + n] = segment
            positions[i, at : at + n] = counting[:n]
            at += n
    arrays = {
        TOKENS: found.pop(TOKENS),
        "labels": labels,
        MASK: found.pop(MASK),
        "segment_ids": segment_ids,
        "positions": positions,
    }
    return arrays | found


def trained(examples: Examples, layout: Layout) -> int:
    """How many labels of all rows have a loss."""
    mask, starts = examples.columns[MASK], examples.starts[layout.examples]
    return sum(
        int(np.count_nonzero(mask[start + 1 : start + n]))
        for start, n in zip(starts.tolist(), layout.lengths.tolist())
    )


def _packed(order: np.ndarray, lengths: np.ndarray, row_length: int):
    """Places in `order` of the examples of each row, by first-fit in this order."""
    import grain

    source = grain.MapDataset.source(order).map(
        lambda i: {"example": np.full(lengths[i], i)}
    )
    rows = grain.experimental.FirstFitPackIterDataset(
        source.to_iter_dataset(grain.ReadOptions(num_threads=0)),
        length_struct={"example": row_length},
        num_packing_bins=_OPEN_ROWS,
        shuffle_bins=False,
    )
    for row in rows:
        segment_ids = row["example_segment_ids"]
        first = np.flatnonzero(np.diff(segment_ids, prepend=0) > 0)
        yield row["example"][first]
