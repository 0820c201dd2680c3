"""From a config to batches: a pure function of (seed, step)."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data import chat, packing
from targetsft_jax.data.chat import Example
from targetsft_jax.data.config import DataConfig, validate
from targetsft_jax.data.record import RowError
from targetsft_jax.data.records import bad_row, load_records
from targetsft_jax.data.report import Report

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Dataset:
    """The training set, tokenized and packed, in memory."""

    arrays: dict[str, np.ndarray]
    """[R, L] each: tokens, labels, loss_mask, segment_ids, positions and columns."""
    report: Report
    example: Example
    """The first example packed, to be shown."""
    fingerprint: str
    """sha256 of the arrays: the same data, tokenizer and packing give the same."""

    @property
    def rows(self) -> int:
        """R, the number of rows of tokens."""
        return len(self.arrays["tokens"])


def prepare(config: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> Dataset:
    """Reads, tokenizes and packs the training set.

    Examples are shuffled by `shuffle_seed` before they are packed, so that a row is
    no neighbourhood of the source file.

    Raises:
        ValueError: the config contradicts itself; a row cannot be used and
            `on_bad_row` is `error`; no example is left.
    """
    validate(config)
    marked = chat.marks_assistant(tokenizer)
    records, report = load_records(config)
    examples = []
    for record in records:
        try:
            examples.append(chat.encode(record, tokenizer))
        except RowError as error:
            bad_row(error, config, report)
    examples = packing.fit(examples, config.max_length, config.overlong, report)
    if not examples:
        raise ValueError(f"no example is left to train on:\n{report}")
    order = np.random.default_rng(config.shuffle_seed).permutation(len(examples))
    examples = [examples[i] for i in order]
    arrays = packing.pack(examples, config.max_length, packing=config.packing)

    report.examples = len(examples)
    report.packed_rows, report.row_length = arrays["tokens"].shape
    report.tokens = int((arrays["segment_ids"] > 0).sum())
    report.trained_tokens = int(arrays["loss_mask"].sum())
    report.mask_from = (
        "the chat template's {% generation %} marks"
        if marked
        else "the prefix property of the chat template, proved for each turn"
    )
    return Dataset(arrays, report, examples[0], fingerprint(arrays))


def batch_at(
    dataset: Dataset,
    step: int,
    *,
    batch_size: int,
    accumulation: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The batch of an optimizer step: a pure function of (dataset, seed, step).

    Every epoch visits each row once in a fresh order. A batch may run over into the
    next epoch; a data set smaller than a batch repeats within it.

    Args:
        dataset: of R rows of L places.
        step: 0, 1, …
        batch_size: B, rows in a micro-batch, over all processes.
        accumulation: A, micro-batches in a step.
        seed: of the order of rows.

    Returns:
        Every array of the data set as [A, B, L].
    """
    if step < 0:
        raise ValueError(f"step is {step}; expected 0 or more")
    rows = _order(dataset.rows, batch_size * accumulation, seed)[step]
    return {
        name: values[rows].reshape(accumulation, batch_size, -1)
        for name, values in dataset.arrays.items()
    }


def iterate(
    dataset: Dataset,
    start_step: int = 0,
    *,
    batch_size: int,
    accumulation: int = 1,
    seed: int = 0,
    prefetch: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches from `start_step` on, without end, made ahead of time in a thread.

    Args:
        dataset, batch_size, accumulation, seed: as for `batch_at`.
        start_step: the step of the first batch.
        prefetch: batches kept ready.

    Returns:
        Iterator over what `batch_at` gives for start_step, start_step + 1, …
    """
    import grain

    make = functools.partial(
        batch_at,
        dataset,
        batch_size=batch_size,
        accumulation=accumulation,
        seed=seed,
    )
    steps = grain.MapDataset.range(start_step, 2**62).map(make)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(steps.to_iter_dataset(options))


def fingerprint(arrays: dict[str, np.ndarray]) -> str:
    """sha256 over names, shapes, dtypes and contents."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        values = arrays[name]
        digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


@functools.lru_cache
def _order(rows: int, size: int, seed: int):
    import grain

    shuffled = grain.MapDataset.range(rows).seed(seed).shuffle().repeat()
    return shuffled.batch(size)
