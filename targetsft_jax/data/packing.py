"""Pack examples of any length into rows of fixed length."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from targetsft_jax.data.examples import MASK, TOKENS, Arrays, Examples
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.token_limit import stored_tokens

# Open rows of first fit, which takes the longest examples first. More open rows are
# filled better, but take longer, and examples of similar length cluster.
_OPEN_ROWS = 1024


@dataclass(frozen=True)
class RowLayout:
    """Placement of S examples in R rows of L tokens, and the share of each source."""

    examples: np.ndarray
    """[S] int64: indices of the examples, row by row, in their order in the row."""
    lengths: np.ndarray
    """[S] int64: number of leading tokens of each example in its row."""
    row_ends: np.ndarray
    """[R] int64: end (exclusive) of each row in `examples` and `lengths`."""
    row_length: int
    """L, tokens per row."""
    source_rows: tuple[int, ...]
    """Number of rows of each source, in order; one entry if all sources are packed
    together."""
    weights: tuple[float, ...] | None = None
    """Weight of each entry of `source_rows`; None: every row once per epoch."""
    teacher_lengths: np.ndarray | None = None
    """[S] int64: tokens of each example in a row of the teacher's; None: the teacher
    reads the same rows."""
    teacher_row_length: int = 0
    """Tokens per row of the teacher's; 0 without them."""

    @property
    def rows(self) -> int:
        """R, the number of rows."""
        return len(self.row_ends)

    def arrays(self) -> Arrays:
        """The arrays under the names of their fields."""
        names = ["examples", "lengths", "row_ends"]
        if self.teacher_lengths is not None:
            names.append("teacher_lengths")
        return {name: np.asarray(getattr(self, name), np.int64) for name in names}

    def settings(self) -> dict[str, Any]:
        """The other fields, JSON-serializable."""
        return {
            "row_length": self.row_length,
            "source_rows": list(self.source_rows),
            "weights": None if self.weights is None else list(self.weights),
            "teacher_row_length": self.teacher_row_length,
        }

    @classmethod
    def of(
        cls, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any]
    ) -> "RowLayout":
        """Rebuild a layout from its `arrays()`, among others, and `settings()`."""
        weights = settings["weights"]
        names = ("examples", "lengths", "row_ends", "teacher_lengths")
        return cls(
            **{name: arrays[name] for name in names if name in arrays},
            row_length=settings["row_length"],
            source_rows=tuple(settings["source_rows"]),
            weights=None if weights is None else tuple(weights),
            # Layouts cached by earlier versions have none.
            teacher_row_length=settings.get("teacher_row_length", 0),
        )

    def segments(self, row: int) -> slice:
        """Slice of `examples` and `lengths` for a row."""
        start = int(self.row_ends[row - 1]) if row else 0
        return slice(start, int(self.row_ends[row]))


def fit_to_rows(
    examples: Examples, row_length: int, overlong: str, report: DataReport
) -> tuple[np.ndarray, np.ndarray]:
    """Select the usable examples, and limit the length of each to that of a row.

    Args:
        examples: N examples.
        row_length: L, tokens per row.
        overlong: `truncate` retains the first L tokens, `drop` leaves the example out,
            `error` raises.
        report: counts truncated and dropped examples.

    Returns:
        Indices of the usable examples [K] int64, and their lengths [K] int64, 2 to L.

    Raises:
        ValueError: an example is longer than a row and `overlong` is `error`.
    """
    lengths = examples.lengths
    exceeds = lengths > row_length
    if overlong == "error" and exceeds.any():
        first = int(np.argmax(exceeds))
        stored = lengths[first] >= stored_tokens(row_length)
        raise ValueError(
            f"{examples.origins[first]}: {'at least ' if stored else ''}"
            f"{lengths[first]} tokens and data.max_length is"
            f" {row_length}; raise it, or set data.overlong to truncate or drop"
        )
    # Nothing precedes the first token, so it cannot be predicted.
    trained = examples.first_trained < np.minimum(lengths, row_length)
    usable = trained & ~exceeds if overlong == "drop" else trained
    report.drop(
        "no trained token after the first one", int((~trained & ~exceeds).sum())
    )
    if overlong == "drop":
        report.drop("longer than a row", int(exceeds.sum()))
    else:
        report.drop(
            "no trained token left after truncation", int((exceeds & ~trained).sum())
        )
        report.truncated += int((exceeds & usable).sum())
    numbers = np.flatnonzero(usable)
    return numbers, np.minimum(lengths[numbers], row_length)


def pack(
    numbers: np.ndarray,
    lengths: np.ndarray,
    row_length: int,
    *,
    packing: bool = True,
    teacher: tuple[np.ndarray, int] | None = None,
) -> RowLayout:
    """Assign examples to rows by their lengths.

    With rows of the teacher's own, row r of both has the same examples in the same
    order, and takes an example only if both have room for it.

    Args:
        numbers: [K] int64, K ≥ 1, indices of the examples in packing order.
        lengths: [K] int64, each at most `row_length`.
        row_length: L, tokens per row.
        packing: several examples per row, by first fit with the longest first within
            a window; False: one example per row.
        teacher: lengths [K] int64 of the same examples in rows of the teacher's own,
            and the length of these rows.
    """
    theirs, teacher_row_length = teacher or (None, 0)

    def layout(placed: Any, row_ends: np.ndarray) -> RowLayout:
        return RowLayout(
            numbers[placed],
            lengths[placed],
            row_ends,
            row_length,
            (len(row_ends),),
            teacher_lengths=None if theirs is None else theirs[placed],
            teacher_row_length=teacher_row_length,
        )

    if not packing:
        return layout(slice(None), np.arange(1, len(numbers) + 1))
    capacities, sizes = [(lengths, row_length)], lengths
    if theirs is not None:
        capacities.append((theirs, teacher_row_length))
        # In tokens of a row, of the one that the example fills more.
        sizes = np.maximum(sizes, -(-theirs * row_length // teacher_row_length))
    ends = np.cumsum(sizes)
    # A window has as many examples as fill the open rows, so that no row is closed half
    # empty for a longer example. The longest are first, since short ones fill gaps.
    window = (ends - 1) // max(1, _OPEN_ROWS * row_length * 9 // 10)
    order = np.lexsort((-sizes, window))
    parts = np.split(order, np.flatnonzero(np.diff(window)) + 1)
    rows = [row for part in parts for row in _first_fit(part, capacities)]
    return layout(np.concatenate(rows), np.cumsum([len(row) for row in rows]))


def concatenate(layouts: Sequence[RowLayout], weights: Sequence[float]) -> RowLayout:
    """Concatenate the layouts of the sources of a weighted mixture, in order."""
    offsets = np.cumsum([0, *(len(layout.examples) for layout in layouts)])
    theirs = [x.teacher_lengths for x in layouts if x.teacher_lengths is not None]
    return RowLayout(
        np.concatenate([layout.examples for layout in layouts]),
        np.concatenate([layout.lengths for layout in layouts]),
        np.concatenate([layout.row_ends + n for layout, n in zip(layouts, offsets)]),
        layouts[0].row_length,
        tuple(layout.rows for layout in layouts),
        tuple(weights),
        np.concatenate(theirs) if theirs else None,
        layouts[0].teacher_row_length,
    )


def build_rows(examples: Examples, layout: RowLayout, rows: np.ndarray) -> Arrays:
    """Build the arrays of the selected rows.

    Args:
        examples: the examples of the layout.
        layout: R rows of L tokens.
        rows: [n] int, 0 to R - 1, in any order.

    Returns:
        tokens [n, L] int32, 0 in padding;
        labels [n, L] int32, the next token of the same segment, 0 at its last position;
        loss_mask [n, L] bool, True where the label is trained;
        segment_ids [n, L] int32, 1, 2, … within a row and 0 in padding;
        positions [n, L] int32, from 0 in each segment;
        every further column [n, L] float32, at the position of its label, 0 elsewhere.
    """
    shape = (len(rows), layout.row_length)
    columns = {
        name: np.zeros(shape, values.dtype) for name, values in examples.columns.items()
    }
    labels = np.zeros(shape, np.int32)
    segment_ids = np.zeros(shape, np.int32)
    positions = np.zeros(shape, np.int32)
    counting = np.arange(layout.row_length, dtype=np.int32)
    tokens = examples.columns[TOKENS]
    # Labels and their columns are one position before their token.
    shifted = [(columns[n], examples.columns[n]) for n in columns if n != TOKENS]
    shifted.append((labels, tokens))
    for i, row in enumerate(rows):
        at = 0
        part = layout.segments(int(row))
        numbers, lengths = layout.examples[part], layout.lengths[part].tolist()
        starts = examples.starts[numbers].tolist()
        for segment, (start, n) in enumerate(zip(starts, lengths), 1):
            columns[TOKENS][i, at : at + n] = tokens[start : start + n]
            for target, source in shifted:
                target[i, at : at + n - 1] = source[start + 1 : start + n]
            segment_ids[i, at : at + n] = segment
            positions[i, at : at + n] = counting[:n]
            at += n
    arrays = {
        TOKENS: columns.pop(TOKENS),
        "labels": labels,
        MASK: columns.pop(MASK),
        "segment_ids": segment_ids,
        "positions": positions,
    }
    return arrays | columns


def count_trained(examples: Examples, layout: RowLayout) -> int:
    """Number of trained labels in all rows."""
    mask, starts = examples.columns[MASK], examples.starts[layout.examples]
    return sum(
        int(np.count_nonzero(mask[start + 1 : start + n]))
        for start, n in zip(starts.tolist(), layout.lengths.tolist())
    )


def count_zero_weights(examples: Examples, layout: RowLayout, name: str) -> int:
    """Number of examples of all rows without a trained label of another weight than 0.

    Args:
        examples, layout: the examples and their rows.
        name: column with the weights.
    """
    mask, weights = examples.columns[MASK], examples.columns[name]
    starts = examples.starts[layout.examples].tolist()
    spans = (slice(s + 1, s + n) for s, n in zip(starts, layout.lengths.tolist()))
    return sum(not weights[span][mask[span]].any() for span in spans)


def _first_fit(
    order: np.ndarray, capacities: Sequence[tuple[np.ndarray, int]]
) -> Iterator[np.ndarray]:
    """Indices of the examples of each row, by first fit in `order`.

    Args:
        order: indices of the examples.
        capacities: lengths of the examples and of the rows, of each kind of row.
    """
    import grain

    kinds = range(len(capacities))
    source = grain.MapDataset.source(order).map(
        lambda i: {str(kind): np.full(capacities[kind][0][i], i) for kind in kinds}
    )
    rows = grain.experimental.FirstFitPackIterDataset(
        source.to_iter_dataset(grain.ReadOptions(num_threads=0)),
        length_struct={str(kind): capacities[kind][1] for kind in kinds},
        num_packing_bins=_OPEN_ROWS,
        shuffle_bins=False,
    )
    for row in rows:
        segment_ids = row["0_segment_ids"]
        first = np.flatnonzero(np.diff(segment_ids, prepend=0) > 0)
        yield row["0"][first]
