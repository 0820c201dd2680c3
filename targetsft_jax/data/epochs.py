"""Passes over the rows of a data set: rows that a training repeats or leaves out."""

from targetsft_jax.data.mixture import rows_of_sources
from targetsft_jax.data.pipeline import Dataset


def describe_use(dataset: Dataset, steps: int, batch_size: int) -> str:
    """Use of the rows by a training, in one sentence.

    "13 rows, batch size 8: 2 steps use 16 rows; 3 rows are used twice, the others
    once".

    Args:
        dataset: R rows.
        steps: optimizer steps of the training.
        batch_size: rows per optimizer step.
    """
    layout, total = dataset.layout, steps * batch_size
    text = (
        f"{_count(dataset.rows, 'row')}, batch size {batch_size:,}:"
        f" {_count(steps, 'step')} {'uses' if steps == 1 else 'use'}"
        f" {_count(total, 'row')}; "
    )
    if layout.weights is None:
        return text + _passes(dataset.rows, total)
    used = rows_of_sources(layout.weights, total)
    names = dataset.report.weights
    return text + "; ".join(
        f"{name}: {_passes(rows, n)}"
        for name, rows, n in zip(names, layout.source_rows, used)
    )


def _passes(rows: int, used: int) -> str:
    passes, more = divmod(used, rows)
    if passes == 0:
        are = "is" if rows - used == 1 else "are"
        return f"{rows - used:,} of {_count(rows, 'row')} {are} left out"
    if more == 0:
        return f"each row is used {_times(passes)}"
    are = "row is" if more == 1 else "rows are"
    return f"{more:,} {are} used {_times(passes + 1)}, the others {_times(passes)}"


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n:,} times")


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
