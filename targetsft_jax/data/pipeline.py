"""From a config to batches: a pure function of (seed, step)."""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data import chat, packing
from targetsft_jax.data.chat import Example
from targetsft_jax.data.config import SPLITS, DataConfig, EmbeddedConfig, validate
from targetsft_jax.data.embedded import generate
from targetsft_jax.data.record import Record, RowError, matches, to_record
from targetsft_jax.data.report import Report
from targetsft_jax.data.sources import parse_row, read_lines

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Duplicates among generated problems are passed over; after this many in a row the
# split is taken to hold no other.
_FRUITLESS = 1000


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


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer."""

    messages: list[dict[str, str]] = field(repr=False)
    """The conversation up to and with the user's question."""
    answer: str
    id: str
    """`file:line`, or how the problem was generated."""


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
            _bad_row(error, config, report)
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


def load_records(config: DataConfig) -> tuple[list[Record], Report]:
    """Records to train on, in source order, and what became of the others.

    Raises:
        ValueError: as for `prepare`.
    """
    validate(config)
    report = Report()
    if config.source == "embedded":
        limit = config.limit or config.embedded.examples
        report.rows = min(config.embedded.examples, limit)
        report.limited = limit < config.embedded.examples
        return [generate(config.embedded, i) for i in range(report.rows)], report
    records: list[Record] = []
    for record in _jsonl_records(config, report, train=True):
        records.append(record)
        if len(records) == config.limit:
            report.limited = True
            break
    return records, report


def problems(
    config: DataConfig | EmbeddedConfig,
    split: str = "heldout",
    n: int | None = None,
) -> list[Problem]:
    """Problems to evaluate on.

    Args:
        config: generated problems, or a file of rows with `fields.answer`.
        split: of generated problems, `heldout` or `train`; always without label
            noise and no two with the same prompt. A file is its own split: use
            another file, or `where`.
        n: how many, the first ones of the source. None: all of a file, or
            `embedded.examples` generated ones.

    Raises:
        ValueError: the split has fewer than n distinct problems, a file holds none,
            or a row cannot be used and `on_bad_row` is `error`.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of " + ", ".join(SPLITS))
    if isinstance(config, EmbeddedConfig):
        config = DataConfig(embedded=config)
    validate(config)
    if config.source == "embedded":
        return _generated_problems(config.embedded, split, n)
    report = Report()
    found: list[Problem] = []
    for record in _jsonl_records(config, report, train=False):
        assert record.answer is not None  # to_record has refused it otherwise
        found.append(Problem(record.messages, record.answer, record.origin))
        if len(found) in (n, config.limit):
            break
    if not found:
        raise ValueError(f"no problem is left to evaluate on:\n{report}")
    return found


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


def _jsonl_records(
    config: DataConfig, report: Report, *, train: bool
) -> Iterator[Record]:
    assert config.path is not None  # validate has refused it otherwise
    for origin, line in read_lines(config.path):
        report.rows += 1
        try:
            row = parse_row(line, origin)
            if not matches(row, config.where, origin):
                report.filtered += 1
                continue
            record = to_record(row, config.fields, origin, train=train)
        except RowError as error:
            _bad_row(error, config, report)
            continue
        yield record


def _bad_row(error: RowError, config: DataConfig, report: Report) -> None:
    if config.on_bad_row == "error":
        raise error
    report.skip(error)


def _generated_problems(
    config: EmbeddedConfig, split: str, n: int | None
) -> list[Problem]:
    wanted = config.examples if n is None else n
    found: dict[str, Problem] = {}
    index = last_new = 0
    while len(found) < wanted and index - last_new < _FRUITLESS:
        record = generate(config, index, split)
        index += 1
        prompt, answer = record.messages[:-1], record.answer
        text = prompt[-1]["content"]
        if text not in found:
            found[text] = Problem(prompt, answer or "", record.origin)
            last_new = index
    if len(found) < wanted:
        raise ValueError(
            f"the {split} split of these generated problems has {len(found)} distinct"
            f" ones; expected {wanted}: raise embedded.digits or ask for fewer"
        )
    return list(found.values())


@functools.lru_cache
def _order(rows: int, size: int, seed: int):
    import grain

    shuffled = grain.MapDataset.range(rows).seed(seed).shuffle().repeat()
    return shuffled.batch(size)
