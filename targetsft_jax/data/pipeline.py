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
from targetsft_jax.data.config import DataConfig, source_name, sources, validate
from targetsft_jax.data.content_hash import content_hash
from targetsft_jax.data.dropped import check_dropped
from targetsft_jax.data.encoding import Encoder, nothing_left
from targetsft_jax.data.examples import Arrays, Examples, from_flat
from targetsft_jax.data.fingerprint import fingerprint
from targetsft_jax.data.packing import RowLayout
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.teacher_cache import TeacherCache
from targetsft_jax.data.token_cache import CacheFolders, load_or_make
from targetsft_jax.targets.inputs import INPUTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Prefix of the cached arrays of held-out rows.
_HELD_OUT = "held_out_"


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
        layout = self.layout
        complete = layout.lengths == self.examples.lengths[layout.examples]
        first = int(np.argmax(complete))
        return self.examples.take(
            int(layout.examples[first]), int(layout.lengths[first])
        )

    def take(self, rows: np.ndarray) -> Arrays:
        """Arrays [n, L] of the rows with indices [n]; see `packing.build_rows`."""
        arrays = packing.build_rows(self.examples, self.layout, rows)
        if self.teacher is not None:
            arrays |= self.teacher.take(self.examples, self.layout, rows)
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

    Raises:
        ValueError: an invalid combination of keys; an unusable row while `on_bad_row`
            is `error`; no example left to train on.
    """
    validate(config)
    tokenizer = with_template(tokenizer, config.chat_template)
    encoder = Encoder(config, tokenizer)
    folders = _cache_folders(config, tokenizer, cache_dir, held_out)
    log: list[str] = []

    flat, summary = load_or_make(
        folders.tokens, encoder, lambda line: log.append("tokens " + line)
    )
    examples = from_flat(flat)
    packer = _Packer(config, examples, DataReport(**summary), held_out)
    arrays, summary = load_or_make(
        folders.rows, packer, lambda line: log.append("rows " + line)
    )
    train = _dataset(examples, arrays, summary["train"], log)
    if not held_out:
        return Prepared(train)
    arrays = {
        name.removeprefix(_HELD_OUT): x
        for name, x in arrays.items()
        if name.startswith(_HELD_OUT)
    }
    return Prepared(train, _dataset(examples, arrays, summary["held_out"], []))


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


class _Packer:
    """Packs shuffled examples into held-out and training rows: an `ArrayMaker`.

    Attributes:
        report: report of the encoded examples, completed by the packing.
    """

    def __init__(
        self, config: DataConfig, examples: Examples, report: DataReport, held_out: int
    ):
        self._config, self._examples, self.report = config, examples, report
        self._held_out = held_out
        self._summary: dict[str, Any] = {}

    def parts(self) -> Iterator[Arrays]:
        """Arrays of both layouts, as a single part."""
        numbers, lengths = self._shuffled()
        n = self._held_out
        self.report.held_out = n
        layout = self._pack_train(numbers[n:], lengths[n:])
        self._summary["train"] = self._describe(layout, self.report)
        arrays = layout.arrays()
        if n:
            layout = packing.pack(
                numbers[:n],
                lengths[:n],
                self._config.max_length,
                packing=self._config.packing,
            )
            self._summary["held_out"] = self._describe(layout, DataReport())
            arrays |= {_HELD_OUT + name: x for name, x in layout.arrays().items()}
        yield arrays

    def summary(self) -> dict[str, Any]:
        """Settings, report and fingerprint of both layouts."""
        return self._summary

    def _shuffled(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices and lengths of the usable examples, shuffled by `shuffle_seed`."""
        config, report = self._config, self.report
        numbers, lengths = packing.fit_to_rows(
            self._examples, config.max_length, config.overlong, report
        )
        if not len(numbers):
            raise nothing_left(config, report)
        check_dropped(config, report, self._examples.lengths)
        if self._held_out >= len(numbers):
            raise ValueError(
                f"validation.examples is {self._held_out:,} and the data has"
                f" {len(numbers):,} examples; expected fewer, since the rest are"
                f" trained on:\n{report}"
            )
        order = np.random.default_rng(config.shuffle_seed).permutation(len(numbers))
        return numbers[order], lengths[order]

    def _pack_train(self, numbers: np.ndarray, lengths: np.ndarray) -> RowLayout:
        parts = sources(self._config)
        names = [source_name(part) for part in parts]
        source = self._examples.source[numbers]
        self.report.count_examples(names, source, lengths)
        for i, part in enumerate(parts):
            if part.weight is not None and i not in source:
                raise ValueError(
                    f"data.mixture[{i}] ({names[i]}) has no example left to train on;"
                    f" remove the source or its filters:\n{self.report}"
                )
        layout = mixture.pack_sources(self._config, source, numbers, lengths)
        if layout.weights is not None:
            self.report.weights = dict(zip(names, layout.weights))
            for name, rows in zip(names, layout.source_rows):
                self.report.count_source("packed_rows", name, rows)
        return layout

    def _describe(self, layout: RowLayout, report: DataReport) -> dict[str, Any]:
        """JSON summary of a layout; completes its report."""
        report.examples = len(layout.examples)
        report.packed_rows, report.row_length = layout.rows, layout.row_length
        report.tokens = int(layout.lengths.sum())
        report.trained_tokens = packing.count_trained(self._examples, layout)
        report.zero_weights = {
            name: packing.count_zero_weights(self._examples, layout, name)
            for name in self._examples.columns
            if name in INPUTS and INPUTS[name].weighs
        }
        return {
            "settings": layout.settings(),
            "report": dataclasses.asdict(report),
            "fingerprint": _fingerprint(self._examples, layout),
        }


def _dataset(
    examples: Examples, arrays: Arrays, summary: dict[str, Any], log: list[str]
) -> Dataset:
    """Build a data set from the arrays and the summary of its layout."""
    names = ("examples", "lengths", "row_ends")
    layout = RowLayout.of({name: arrays[name] for name in names}, summary["settings"])
    report = DataReport(**summary["report"])
    return Dataset(examples, layout, report, summary["fingerprint"], log)


def _cache_folders(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    cache_dir: str | Path | None,
    held_out: int,
) -> CacheFolders:
    generated = all(source.kind == "synthetic" for source in sources(config))
    if cache_dir is None or not config.cache or generated:
        return CacheFolders()
    content = content_hash(config)
    return CacheFolders.of(config, tokenizer, content, cache_dir, held_out)


def _fingerprint(examples: Examples, layout: RowLayout) -> str:
    return fingerprint(
        examples.columns
        | {
            "starts": examples.starts[layout.examples],
            "lengths": layout.lengths,
            "row_ends": layout.row_ends,
            "row_length": np.array(layout.row_length),
        }
    )


@functools.lru_cache
def _batches(
    source_rows: tuple[int, ...],
    weights: tuple[float, ...] | None,
    batch_size: int,
    seed: int,
) -> Any:
    """Infinite sequence of batches of row indices, [B] int each."""
    return mixture.row_order(source_rows, weights, seed).batch(batch_size)
