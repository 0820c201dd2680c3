"""Data pipeline: batches as pure functions of (data set, seed, step)."""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.data import mixture, packing
from targetsft_jax.data.chat import Example
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import DataConfig, sources, validate
from targetsft_jax.data.content_hash import content_hash
from targetsft_jax.data.encoding import Encoder
from targetsft_jax.data.examples import MASK, Arrays, Examples, from_flat
from targetsft_jax.data.packer import COUNTERPARTS, HELD_OUT, Packer
from targetsft_jax.data.packing import RowLayout
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.teacher_cache import TeacherCache
from targetsft_jax.data.teacher_rows import TeacherPrompt, TeacherRows
from targetsft_jax.data.token_cache import ArrayMaker, CacheFolders, load_or_make

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Dataset:
    """Tokenized examples and their placement in rows."""

    examples: Examples
    layout: RowLayout
    report: DataReport
    """For display; batches do not depend on it."""
    fingerprint: str
    """SHA-256 of tokens and layout: equal for equal data, tokenizer and packing."""
    cache_log: list[str] = field(default_factory=list)
    """Lines about reads from and writes to the cache, with the folder."""
    teacher: TeacherCache | None = None
    """Stored teacher, whose arrays are part of a batch; None for a live one."""
    teacher_rows: TeacherRows | None = None
    """Rows of a live teacher with a prompt of its own, part of a batch; None: it reads
    those of the student."""

    @property
    def rows(self) -> int:
        """R, the number of packed rows."""
        return self.layout.rows

    @property
    def columns(self) -> list[str]:
        """Names of the arrays of a batch: tokens, labels, loss_mask, …."""
        return list(self.take(np.arange(0)))

    @property
    def example(self) -> Example:
        """First example that is not truncated, else the first one, for display."""
        first, layout = self._first_complete, self.layout
        return self.examples.take(
            int(layout.examples[first]), int(layout.lengths[first])
        )

    @property
    def teacher_example(self) -> Example:
        """The same example as a teacher with rows of its own reads it."""
        assert self.teacher_rows is not None
        first, layout = self._first_complete, self.teacher_rows.layout
        return self.teacher_rows.examples.take(
            int(layout.examples[first]), int(layout.lengths[first])
        )

    @property
    def _first_complete(self) -> int:
        layout = self.layout
        complete = layout.lengths == self.examples.lengths[layout.examples]
        return int(np.argmax(complete))

    def take(self, rows: np.ndarray) -> Arrays:
        """Arrays [n, L] of the rows with indices [n]; see `packing.build_rows`."""
        arrays = packing.build_rows(self.examples, self.layout, rows)
        if self.teacher is not None:
            arrays |= self.teacher.take(self.examples, self.layout, rows)
        if self.teacher_rows is not None:
            arrays |= self.teacher_rows.take(arrays[MASK], rows)
        return arrays

    def origins(self, row: int) -> list[str]:
        """Origins (`file:line`) of the records in a row, in order."""
        numbers = self.layout.examples[self.layout.segments(row)]
        return [self.examples.origins[number] for number in numbers.tolist()]


@dataclass(frozen=True)
class Prepared:
    """Packed training set, and held-out set if there is one."""

    train: Dataset
    held_out: Dataset | None = None


def prepare(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    cache_dir: str | Path | None = None,
    *,
    held_out: int = 0,
    teacher: TeacherPrompt | None = None,
) -> Prepared:
    """Read, tokenize and pack the training and held-out examples.

    Examples are shuffled by `shuffle_seed` before packing, so that a row does not
    consist of neighbours in a file. The first `held_out` in this order are held out.

    Args:
        config: the data section.
        tokenizer: its chat template is used unless the config sets another.
        cache_dir: folder of cached, memory-mapped tokens and packed rows. None,
            `cache: false` or generated problems: nothing is cached.
        held_out: number of examples held out from training.
        teacher: prompt of a live teacher that has its own, and its rows.

    Raises:
        ValueError: an invalid combination of keys; an unusable row while `on_bad_row`
            is `error`, also one whose trained tokens differ under the teacher's
            prompt; no example left to train on.
    """
    validate(config)
    tokenizer = with_template(tokenizer, config.chat_template)
    encoder = Encoder(config, tokenizer)
    folders = _cache_folders(config, tokenizer, cache_dir, held_out, teacher)
    log: list[str] = []

    def load(name: str, folder: Path | None, maker: ArrayMaker) -> Any:
        return load_or_make(folder, maker, lambda line: log.append(f"{name} {line}"))

    flat, summary = load("tokens", folders.tokens, encoder)
    examples = from_flat(flat)
    theirs = None
    if teacher is not None:
        longest = max(config.max_length, teacher.max_length)
        long = dataclasses.replace(config, max_length=longest)
        own = Encoder(long, tokenizer, teacher.template)
        theirs = from_flat(load("teacher's tokens", folders.teacher_tokens, own)[0])
    pair = None if teacher is None or theirs is None else (theirs, teacher.max_length)
    packer = Packer(config, examples, DataReport(**summary), held_out, pair)
    arrays, summary = load("rows", folders.rows, packer)
    train = _dataset(examples, theirs, arrays, summary["train"], log)
    if not held_out:
        return Prepared(train)
    arrays |= {
        name.removeprefix(HELD_OUT): x
        for name, x in arrays.items()
        if name.startswith(HELD_OUT)
    }
    return Prepared(train, _dataset(examples, theirs, arrays, summary["held_out"], []))


def rows_at(
    dataset: Dataset,
    step: int,
    *,
    batch_size: int,
    accumulation_steps: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Row indices of an optimizer step: a pure function of (dataset, seed, step).

    Every epoch is a new permutation of the rows; in a weighted mixture each source has
    its share of the rows. A batch may continue into the next epoch; a data set smaller
    than a batch repeats within it.

    Args:
        dataset: R rows.
        step: 0, 1, …
        batch_size: B, rows per optimizer step, over all processes.
        accumulation_steps: A, micro-batches per optimizer step.
        seed: seed of the row order.

    Returns:
        [A, B / A] int, 0 to R - 1.

    Raises:
        ValueError: `step` is negative, or `batch_size` not a multiple of
            `accumulation_steps`.
    """
    if step < 0:
        raise ValueError(f"step is {step}; expected 0 or more")
    if batch_size % accumulation_steps:
        raise ValueError(
            f"batch_size is {batch_size}; expected a multiple of accumulation_steps ="
            f" {accumulation_steps}"
        )
    layout = dataset.layout
    numbers = _batches(layout.source_rows, layout.weights, batch_size, seed)[step]
    return numbers.reshape(accumulation_steps, -1)


def batch_at(
    dataset: Dataset,
    step: int,
    *,
    batch_size: int,
    accumulation_steps: int = 1,
    seed: int = 0,
) -> Arrays:
    """Batch of an optimizer step: a pure function of (dataset, seed, step).

    Args:
        dataset: rows of L tokens.
        step, batch_size, accumulation_steps, seed: as in `rows_at`.

    Returns:
        Every array of the data set as [A, B / A, L, …].
    """
    rows = rows_at(
        dataset,
        step,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        seed=seed,
    )
    return {
        name: values.reshape(*rows.shape, *values.shape[1:])
        for name, values in dataset.take(rows.reshape(-1)).items()
    }


def iterate(
    dataset: Dataset,
    start_step: int = 0,
    *,
    batch_size: int,
    accumulation_steps: int = 1,
    seed: int = 0,
    prefetch: int = 2,
) -> Iterator[Arrays]:
    """Infinite iterator of batches from `start_step`, prefetched by a thread.

    Args:
        dataset, batch_size, accumulation_steps, seed: as in `batch_at`.
        start_step: the step of the first batch.
        prefetch: number of batches prepared ahead.

    Returns:
        `batch_at` of start_step, start_step + 1, …
    """
    import grain

    batch_of = functools.partial(
        batch_at,
        dataset,
        batch_size=batch_size,
        accumulation_steps=accumulation_steps,
        seed=seed,
    )
    steps = grain.MapDataset.range(start_step, 2**62).map(batch_of)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    return iter(steps.to_iter_dataset(options))


def _dataset(
    examples: Examples,
    teacher: Examples | None,
    arrays: Arrays,
    summary: dict[str, Any],
    log: list[str],
) -> Dataset:
    """Build a data set from the arrays and the summary of its layout."""
    layout = RowLayout.of(arrays, summary["settings"])
    report = DataReport(**summary["report"])
    rows = None
    if teacher is not None:
        rows = TeacherRows.of(teacher, arrays[COUNTERPARTS], layout)
    return Dataset(
        examples, layout, report, summary["fingerprint"], log, teacher_rows=rows
    )


def _cache_folders(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    cache_dir: str | Path | None,
    held_out: int,
    teacher: TeacherPrompt | None,
) -> CacheFolders:
    generated = all(source.kind == "synthetic" for source in sources(config))
    if cache_dir is None or not config.cache or generated:
        return CacheFolders()
    content = content_hash(config)
    return CacheFolders.of(config, tokenizer, content, cache_dir, held_out, teacher)


@functools.lru_cache
def _batches(
    source_rows: tuple[int, ...],
    weights: tuple[float, ...] | None,
    batch_size: int,
    seed: int,
) -> Any:
    """Infinite sequence of batches of row indices, [B] int each."""
    return mixture.row_order(source_rows, weights, seed).batch(batch_size)
