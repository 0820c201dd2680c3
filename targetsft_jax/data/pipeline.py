"""From a config to batches: a pure function of (seed, step)."""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data import chat, mixture, packing, thinking
from targetsft_jax.data.chat import Example
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import (
    DataConfig,
    paths,
    source_name,
    sources,
    validate,
)
from targetsft_jax.data.content_hash import identity
from targetsft_jax.data.examples import Examples, flat_parts, from_flat, put_together
from targetsft_jax.data.packing import Layout
from targetsft_jax.data.record import RowError
from targetsft_jax.data.records import bad_row, load_records
from targetsft_jax.data.report import Report
from targetsft_jax.data.token_cache import Cache, kept

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Dataset:
    """The training set: tokenized examples, and which of them lie in which row."""

    examples: Examples
    layout: Layout
    report: Report
    fingerprint: str
    """sha256 of tokens and layout: the same data, tokenizer and packing give the
    same."""
    cached: list[str] = field(default_factory=list)
    """Lines on what came from the cache, and which folder."""

    @property
    def rows(self) -> int:
        """R, the number of rows of tokens."""
        return self.layout.rows

    @property
    def columns(self) -> list[str]:
        """What a batch holds: tokens, labels, loss_mask, … and further columns."""
        return list(self.take(np.arange(0)))

    @property
    def example(self) -> Example:
        """The first example of the first row, to be shown."""
        layout = self.layout
        return self.examples.take(int(layout.examples[0]), int(layout.lengths[0]))

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Rows by their numbers [n]: every column as [n, L]; see `packing.lay_out`."""
        return packing.lay_out(self.examples, self.layout, rows)

    def origins(self, row: int) -> list[str]:
        """The records that lie in a row, `file:line` each, in their order there."""
        inside = self.layout.examples[self.layout.segments(row)]
        return [self.examples.origins[number] for number in inside.tolist()]


def prepare(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    cache_dir: str | Path | None = None,
) -> Dataset:
    """Reads, tokenizes and packs the training set; see `prepare_parts`."""
    return prepare_parts(config, tokenizer, cache_dir)[0]


def prepare_parts(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    cache_dir: str | Path | None = None,
    *,
    held_out: int = 0,
) -> tuple[Dataset, Dataset | None]:
    """Reads and tokenizes examples, and packs them: to train on, and held out.

    Examples are shuffled by `shuffle_seed` before they are packed, so that a row is
    no neighbourhood of the source file. The first ones of that order are held out.

    Args:
        config: the data section.
        tokenizer: whose chat template is used unless the config has another.
        cache_dir: where tokens and rows are kept, for the next time and out of memory;
            None, or `cache` false, or generated problems: nothing is kept.
        held_out: how many examples are kept out of training.

    Returns:
        The training set, and the examples held out, None where there are none.

    Raises:
        ValueError: the config contradicts itself; a row cannot be used and
            `on_bad_row` is `error`; no example is left.
    """
    validate(config)
    tokenizer = with_template(tokenizer, config.chat_template)
    encode = functools.partial(_encode, config, tokenizer)
    said: list[str] = []
    generated = all(source.source == "synthetic" for source in sources(config))
    if cache_dir is None or not config.cache or generated:
        parts, about = encode()
        examples = put_together(parts)
        report = Report(**about())
        layout, fingerprint = _arrange(config, examples, report, held_out)
        whole = Dataset(examples, layout, report, fingerprint, said)
        return whole, _held_out(config, examples, held_out)
    cache = Cache.of(config, tokenizer, identity(config), cache_dir, held_out)
    flat, about = kept(cache.tokens, encode, lambda line: said.append("tokens " + line))
    examples, report = from_flat(flat), Report(**about)

    def make():
        layout, fingerprint = _arrange(config, examples, report, held_out)
        known = {"report": dataclasses.asdict(report), "fingerprint": fingerprint}
        return [layout.arrays()], lambda: known

    rows, about = kept(cache.rows, make, lambda line: said.append("rows " + line))
    layout = Layout(**rows, row_length=config.max_length)
    report = Report(**about["report"])
    whole = Dataset(examples, layout, report, about["fingerprint"], said)
    return whole, _held_out(config, examples, held_out)


def _encode(config: DataConfig, tokenizer: "PreTrainedTokenizerBase"):
    """Parts of flat arrays, and the report once they are taken."""
    marked = chat.marks_assistant(tokenizer)
    records, report = load_records(config)
    report.mask_from = (
        "the chat template's {% generation %} marks"
        if marked
        else "the prefix property of the chat template, proved for each turn"
    )
    parts = flat_parts(_encoded(config, records, tokenizer, report))
    first = next(parts, None)
    if first is None:
        raise _nothing_left(config, report)
    return itertools.chain([first], parts), lambda: dataclasses.asdict(report)


def _arrange(
    config: DataConfig, examples: Examples, report: Report, held_out: int
) -> tuple[Layout, str]:
    """Which example goes where; the report says what became of them."""
    numbers, lengths = _shuffled(config, examples, report)
    if not len(numbers):
        raise _nothing_left(config, report)
    if held_out >= len(numbers):
        raise ValueError(
            f"validation.examples is {held_out:,} and the data has {len(numbers):,}"
            f" examples; expected fewer, since the others are trained on:\n{report}"
        )
    report.held_out = held_out
    layout = mixture.arrange(config, report, numbers[held_out:], lengths[held_out:])
    _count(examples, layout, report)
    return layout, _fingerprint(examples, layout)


def _held_out(config: DataConfig, examples: Examples, number: int) -> Dataset | None:
    if not number:
        return None
    report = Report()
    numbers, lengths = _shuffled(config, examples, Report())
    layout = packing.arrange(
        numbers[:number], lengths[:number], config.max_length, packing=config.packing
    )
    _count(examples, layout, report)
    return Dataset(examples, layout, report, _fingerprint(examples, layout))


def _shuffled(
    config: DataConfig, examples: Examples, report: Report
) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and lengths of the examples that are used, in `shuffle_seed`'s order."""
    numbers, lengths = packing.fit(examples, config.max_length, config.overlong, report)
    order = np.random.default_rng(config.shuffle_seed).permutation(len(numbers))
    return numbers[order], lengths[order]


def _count(examples: Examples, layout: Layout, report: Report) -> None:
    report.examples = len(layout.examples)
    report.packed_rows, report.row_length = layout.rows, layout.row_length
    report.tokens = int(layout.lengths.sum())
    report.trained_tokens = packing.trained(examples, layout)


def _nothing_left(config: DataConfig, report: Report) -> ValueError:
    read = ", ".join(
        name for own in sources(config) for name in paths(own) or [source_name(own)]
    )
    return ValueError(f"no example is left to train on, of {read}:\n{report}")


def _encoded(config, records, tokenizer, report):
    """Examples, source after source; the report counts how many each has."""
    for source, own in itertools.groupby(records, lambda record: record.source):

        def refused(error, source=source):
            report.note("bad", source)
            bad_row(error, config, report)

        treated = _treated(own, config.thinking, refused)
        for example in chat.encode_all(treated, tokenizer, refused):
            report.note("encoded", source)
            yield example


def _treated(records, mode, refused):
    for record in records:
        try:
            yield thinking.treat(record, mode)
        except RowError as error:
            refused(error)


def rows_at(
    dataset: Dataset,
    step: int,
    *,
    batch_size: int,
    accumulation: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """Which rows a step takes: a pure function of (dataset, seed, step).

    Every epoch visits each row once in a fresh order, or those of each source in its
    share where a mixture has weights. A batch may run over into the next epoch; a data
    set smaller than a batch repeats within it.

    Args:
        dataset: of R rows.
        step: 0, 1, …
        batch_size: B, rows in a micro-batch, over all processes.
        accumulation: A, micro-batches in a step.
        seed: of the order of rows.

    Returns:
        [A, B] int, 0 to R - 1.
    """
    if step < 0:
        raise ValueError(f"step is {step}; expected 0 or more")
    rows, weights = mixture.parts(dataset.report)
    numbers = _order(rows, weights, batch_size * accumulation, seed)[step]
    return numbers.reshape(accumulation, batch_size)


def batch_at(
    dataset: Dataset,
    step: int,
    *,
    batch_size: int,
    accumulation: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The batch of an optimizer step: a pure function of (dataset, seed, step).

    Args:
        dataset: of R rows of L places.
        step, batch_size, accumulation, seed: as for `rows_at`, which chooses the rows.

    Returns:
        Every column of the data set as [A, B, L].
    """
    chosen = rows_at(
        dataset, step, batch_size=batch_size, accumulation=accumulation, seed=seed
    )
    return {
        name: values.reshape(*chosen.shape, -1)
        for name, values in dataset.take(chosen.reshape(-1)).items()
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


def _fingerprint(examples: Examples, layout: Layout) -> str:
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
def _order(rows, weights, size: int, seed: int):
    return mixture.order(rows, weights, seed).batch(size)
