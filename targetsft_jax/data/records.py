"""Records to train on and problems to evaluate on, before any tokenizer."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from targetsft_jax.data.config import (
    SPLITS,
    DataConfig,
    SourceConfig,
    SyntheticConfig,
    origins,
    source_name,
    sources,
    validate,
)
from targetsft_jax.data.dropped import check_dropped
from targetsft_jax.data.fields import FieldMap
from targetsft_jax.data.files import list_files
from targetsft_jax.data.filters import conditions
from targetsft_jax.data.json_rows import parse_row
from targetsft_jax.data.other_prompt import prompted_reading, prompted_record
from targetsft_jax.data.record import Record, first_unmet, remove_texts, to_record
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.row_error import ROW_FAULTS, RowError
from targetsft_jax.data.shapes import Reading, columns_to_read, recognise
from targetsft_jax.data.sources import Row, read_files
from targetsft_jax.data.synthetic import make_record

# Consecutive duplicates after which a split is assumed to be exhausted.
_MAX_REPEATS = 1000


@dataclass(frozen=True)
class Problem:
    """A prompt with its gold answer."""

    messages: list[dict[str, str]] = field(repr=False)
    """The conversation up to the user's question, which is the last turn."""
    answer: str
    id: str
    """`file:row`, or `kind:split:seed:index` of a generated problem."""
    source: str = ""
    """Name of its source."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text of the options, for an answer that is a letter; else empty."""
    question: str = ""
    """The question without the rest of its prompt; empty: the last turn."""


def load_records(config: DataConfig) -> tuple[Iterator[Record], DataReport]:
    """Open the records to train on, with a report of their rows.

    Returns:
        records: single-pass stream, source by source.
        report: row counts, updated while the records are read.

    Raises:
        ValueError: an invalid combination of keys; while reading, as `prepare`.
    """
    validate(config)
    report = DataReport()
    return read_records(config, report), report


def read_records(
    config: DataConfig,
    report: DataReport,
    *,
    train: bool = True,
    prompt: str | None = None,
) -> Iterator[Record]:
    """Stream the records of a validated data section, source by source.

    Args:
        config: the data section.
        report: updated with the counts of rows.
        train: as in `to_record`.
        prompt: template in place of each row's prompt; None: its own.
    """
    for source in sources(config):
        count = 0
        for record in _read_source(source, config, report, train, prompt):
            count += 1
            yield record
            if count == source.limit:
                report.limited = True
                break


def problems(
    config: DataConfig | SyntheticConfig,
    split: str = "heldout",
    n: int | None = None,
    report: DataReport | None = None,
) -> list[Problem]:
    """Load the problems to evaluate on.

    Generated problems have no label noise and show no answer, and no two have the same
    prompt.

    Args:
        config: generated problems; or a data set of the catalogue, or any other source
            whose rows have `fields.answer`, or several in a mixture.
        split: split of generated problems, `heldout` or `train`. For other sources use
            `config.split`, another file, or `where`.
        n: number of problems, from the beginning of the source. None: all of a file,
            or `synthetic.examples` generated ones.
        report: updated with the counts of the rows of a source; None: they are lost.

    Raises:
        ValueError: the split has fewer than n distinct problems; a source has none; a
            mixture contains generated ones; an unusable row while `on_bad_row` is
            `error`.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of " + ", ".join(SPLITS))
    if isinstance(config, SyntheticConfig):
        config = DataConfig(synthetic=config)
    validate(config)
    if not config.mixture and config.kind == "synthetic":
        return _generated_problems(config.synthetic, split, n)
    for i, source in enumerate(config.mixture):
        if source.kind == "synthetic":
            raise ValueError(
                f"mixture[{i}].source of the problems is synthetic; expected sources"
                " with a gold answer in each row, or generated problems alone"
            )
    report = DataReport() if report is None else report
    selection: list[Problem] = []
    for record in read_records(config, report, train=False):
        assert record.answer is not None  # `to_record` refuses such a row.
        selection.append(
            Problem(record.messages, record.answer, record.origin, record.source)
        )
        if len(selection) == n:
            break
    report.examples = len(selection)
    if selection:
        check_dropped(config, report)
    if not selection:
        raise ValueError(
            f"no problem left to evaluate on, from {origins(config)}:\n{report}"
        )
    return selection


def bad_row(error: RowError, config: DataConfig, report: DataReport) -> None:
    """Raise the error, or count it in the report, according to `on_bad_row`."""
    if config.on_bad_row == "error":
        raise error
    report.skip(error)


def _read_source(
    source: SourceConfig,
    config: DataConfig,
    report: DataReport,
    train: bool,
    prompt: str | None,
) -> Iterator[Record]:
    name = source_name(source)
    if source.kind == "synthetic":
        for i in range(source.synthetic.examples):
            report.count("rows", name)
            record = make_record(source.synthetic, i)
            if prompt is not None:
                record = prompted_record(record, prompt)
            yield dataclasses.replace(record, id=record.origin, source=name)
        return
    rows, reading = _open(source, train, report, prompt)
    if prompt is not None:
        reading = prompted_reading(reading, prompt)
    report.read_as[name] = str(reading)
    tests = conditions(source.where)
    removed = None if source.remove is None else re.compile(source.remove)
    if removed is not None:
        report.removed[name] = 0
    for origin, raw in rows:
        report.count("rows", name)
        try:
            row = parse_row(raw, origin)
            unmet = first_unmet(row, tests, origin)
            if unmet is not None:
                report.count_filtered(unmet, name)
                continue
            reading.check(row, origin)
            id = row["id"] if source.source == "tfds" else origin.rpartition("/")[2]
            record = to_record(
                row, reading.fields, origin, train=train, id=id, source=name
            )
            if removed is not None:
                record, changed = remove_texts(record, removed)
                report.removed[name] += changed
        except ROW_FAULTS as error:
            report.count_source("bad", name)
            bad_row(RowError.of(origin, error), config, report)
            continue
        yield record


def open_rows(source: SourceConfig) -> Iterator[tuple[str, Row]]:
    """Open the rows of a source of files, each with its `file:row`.

    Args:
        source: a validated source of another kind than `synthetic` and `tfds`.

    Returns:
        The rows for `json_rows.parse_row`.
    """
    return read_files(list_files(source).paths, of=source.kind)


def _open(
    source: SourceConfig, train: bool, report: DataReport, prompt: str | None
) -> tuple[Iterator[tuple[str, Row]], Reading]:
    """Open the rows of a source, with the map of their fields."""
    if source.kind == "tfds":
        return _open_catalogue(source, train)
    names: list[str] = []
    files = list_files(source)
    if len(files.paths) > 1 or files.left_out:
        report.files[source_name(source)] = str(files)

    def select(columns: Sequence[str]) -> list[str]:
        names.extend(name for name in columns if name not in names)
        return columns_to_read(source, columns, prompt)

    return recognise(source, read_files(files.paths, select, of=source.kind), names)


def _open_catalogue(
    source: SourceConfig, train: bool
) -> tuple[Iterator[tuple[str, Row]], Reading]:
    from targetsft_jax.data.catalogue import builder, conversation

    assert source.dataset is not None
    assert source.path is None or isinstance(source.path, str)
    built, split = builder.build_if_missing(
        source.dataset, source.split, source.data_dir, source.path
    )
    rows = (
        (origin, conversation.as_row(example))
        for origin, example in builder.read(built, split)
    )
    fields = source.fields
    if fields == FieldMap():
        fields = conversation.TRAIN if train else conversation.EVALUATE
    return rows, Reading(fields, f"{source.dataset} of the catalogue")


def _generated_problems(
    config: SyntheticConfig, split: str, n: int | None
) -> list[Problem]:
    config = dataclasses.replace(config, shown_answers=0.0)
    number = config.examples if n is None else n
    distinct: dict[str, Problem] = {}
    index = last_new = 0
    while len(distinct) < number and index - last_new < _MAX_REPEATS:
        record = make_record(config, index, split)
        index += 1
        prompt, answer = record.messages[:-1], record.answer
        text = prompt[-1]["content"]
        if text not in distinct:
            distinct[text] = Problem(prompt, answer or "", record.origin)
            last_new = index
    if len(distinct) < number:
        raise ValueError(
            f"the {split} split has {len(distinct)} distinct generated problems;"
            f" expected {number}: raise synthetic.digits or request fewer"
        )
    return list(distinct.values())
