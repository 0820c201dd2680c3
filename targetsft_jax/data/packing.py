"""Examples of any length as rows of one length."""

from collections.abc import Sequence

import numpy as np

from targetsft_jax.data.chat import Example
from targetsft_jax.data.report import Report

# Rows that are filled at a time, by the longest examples first. More fill rows better,
# cost time, and let examples of like length gather.
_OPEN_ROWS = 1024


def fit(
    examples: Sequence[Example], max_length: int, overlong: str, report: Report
) -> list[Example]:
    """The examples, none longer than a row and each with something to train.

    Args:
        examples: as encoded.
        max_length: L, the length of a row.
        overlong: `truncate` keeps the first L tokens, `drop` leaves the example out,
            `error` raises.
        report: counts what was truncated or dropped.

    Raises:
        ValueError: an example is longer than a row and `overlong` is `error`.
    """
    kept = []
    for example in examples:
        n = len(example.tokens)
        cut = n > max_length
        if cut and overlong == "error":
            raise ValueError(
                f"{example.origin}: {n} tokens, data.max_length is {max_length}; raise"
                " it, or set data.overlong to truncate or drop"
            )
        if cut and overlong == "drop":
            report.drop("longer than a row")
            continue
        if cut:
            example = _first(example, max_length)
        # The first token has nothing before it to be predicted from.
        if not example.loss_mask[1:].any():
            report.drop(
                "nothing trained is left after truncation"
                if cut
                else "nothing is trained after the first token"
            )
            continue
        report.truncated += cut
        kept.append(example)
    return kept


def pack(
    examples: Sequence[Example], max_length: int, *, packing: bool = True
) -> dict[str, np.ndarray]:
    """Lays examples out in R rows of L = `max_length` places.

    Args:
        examples: none longer than L; at least one.
        packing: several examples a row, the longest first, or one example a row.

    Returns:
        tokens [R, L] int32, 0 in padding;
        labels [R, L] int32, the next token of the same segment, 0 at its last place;
        loss_mask [R, L] bool, whether the label is trained;
        segment_ids [R, L] int32, 1, 2, … within a row and 0 in padding;
        positions [R, L] int32, from 0 in each segment;
        every column [R, L] float32, beside the label it belongs to, 0 elsewhere.

    Raises:
        ValueError: no examples; a column that only some examples have.
    """
    names = _column_names(examples)
    lengths = np.array([len(example.tokens) for example in examples], np.int64)
    index, segment_ids, positions = _places(lengths, max_length, packing)
    real = segment_ids > 0

    def laid_out(values: Sequence[np.ndarray]) -> np.ndarray:
        flat = np.concatenate(values)
        return np.where(real, flat[index], np.zeros((), flat.dtype))

    has_next = np.zeros_like(real)
    has_next[:, :-1] = real[:, 1:] & (segment_ids[:, 1:] == segment_ids[:, :-1])

    def beside_label(rows: np.ndarray, where: np.ndarray) -> np.ndarray:
        shifted = np.zeros_like(rows)
        shifted[:, :-1] = rows[:, 1:]
        return np.where(where, shifted, np.zeros((), rows.dtype))

    tokens = laid_out([example.tokens for example in examples])
    trained = laid_out([example.loss_mask for example in examples])
    loss_mask = beside_label(trained, has_next)
    arrays = {
        "tokens": tokens,
        "labels": beside_label(tokens, has_next),
        "loss_mask": loss_mask,
        "segment_ids": segment_ids,
        "positions": positions,
    }
    for name in names:
        column = laid_out([example.columns[name] for example in examples])
        arrays[name] = beside_label(column, loss_mask)
    return arrays


def _first(example: Example, n: int) -> Example:
    columns = {name: column[:n] for name, column in example.columns.items()}
    return Example(example.tokens[:n], example.loss_mask[:n], columns, example.origin)


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


def _places(lengths: np.ndarray, row_length: int, packing: bool):
    """Which token of all tokens in a line stands where.

    Returns:
        index [R, L] int64 into the concatenated tokens (0 in padding), segment_ids
        and positions [R, L] int32.
    """
    ends = np.cumsum(lengths)
    # As many examples at a time as fill the open rows, so that none is given up half
    # empty for a longer example; within them the longest first, as small ones fit into
    # what is left at the end.
    window = (ends - 1) // max(1, _OPEN_ROWS * row_length * 9 // 10)
    order = np.lexsort((-lengths, window)) if packing else np.arange(len(lengths))
    parts = np.split(order, np.flatnonzero(np.diff(window)) + 1)
    rows = [
        row
        for part in parts
        for row in _packed(part, lengths, ends, row_length, packing)
    ]
    index, segment_ids, positions = (
        np.stack([row[key] for row in rows])
        for key in ("index", "index_segment_ids", "index_positions")
    )
    return index, segment_ids.astype(np.int32), positions.astype(np.int32)


def _packed(order, lengths, ends, row_length, packing):
    """Rows of the examples that are named, by first-fit in this order."""
    import grain

    # Only the places are packed: whatever else there is per token follows by one
    # gather, and grain need not copy it.
    source = grain.MapDataset.source(order).map(
        lambda i: {"index": np.arange(ends[i] - lengths[i], ends[i])}
    )
    return grain.experimental.FirstFitPackIterDataset(
        source.to_iter_dataset(grain.ReadOptions(num_threads=0)),
        length_struct={"index": row_length},
        num_packing_bins=_OPEN_ROWS,
        shuffle_bins=False,
        max_sequences_per_bin=None if packing else 1,
    )
