"""From the data section of a config to records and problems, before any tokenizer."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from targetsft_jax.data.config import SPLITS, DataConfig, EmbeddedConfig, validate
from targetsft_jax.data.embedded import generate
from targetsft_jax.data.record import Record, RowError, matches, to_record
from targetsft_jax.data.report import Report
from targetsft_jax.data.sources import parse_row, read_lines

# Duplicates among generated problems are passed over; after this many in a row the
# split is taken to hold no other.
_FRUITLESS = 1000


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer."""

    messages: list[dict[str, str]] = field(repr=False)
    """The conversation up to and with the user's question."""
    answer: str
    id: str
    """`file:line`, or how the problem was generated."""


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


def identity(config: DataConfig) -> str:
    """sha256 of the bytes that the files of the sources have now."""
    digest = hashlib.sha256()
    for path in [config.path] if isinstance(config.path, str) else config.path or []:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def bad_row(error: RowError, config: DataConfig, report: Report) -> None:
    """Raises the error, or counts it in the report, as `on_bad_row` says."""
    if config.on_bad_row == "error":
        raise error
    report.skip(error)


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
            bad_row(error, config, report)
            continue
        yield record


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
