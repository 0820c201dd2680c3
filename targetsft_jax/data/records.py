"""From the data section of a config to records and problems, before any tokenizer."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

from targetsft_jax.data.config import (
    SPLITS,
    DataConfig,
    FieldMap,
    SourceConfig,
    SyntheticConfig,
    paths,
    source_name,
    sources,
    validate,
)
from targetsft_jax.data.filters import conditions
from targetsft_jax.data.hf_folder import split_files
from targetsft_jax.data.record import Record, RowError, to_record, unmet
from targetsft_jax.data.report import Report
from targetsft_jax.data.sources import (
    Row,
    parse_row,
    read_files,
    read_lines,
    read_parquet,
)
from targetsft_jax.data.synthetic import generate

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
    """`file:row`, or how the problem was generated."""
    source: str = ""
    """Name of the source it is from."""


def load_records(config: DataConfig) -> tuple[Iterator[Record], Report]:
    """Records to train on, and what became of the others.

    Returns:
        records: streamed, source after source in the order of each; read once.
        report: filled while they are read.

    Raises:
        ValueError: the config contradicts itself; while reading, as for `prepare`.
    """
    validate(config)
    report = Report()
    return _records(config, report, train=True), report


def problems(
    config: DataConfig | SyntheticConfig,
    split: str = "heldout",
    n: int | None = None,
) -> list[Problem]:
    """Problems to evaluate on.

    Args:
        config: generated problems; a data set of the catalogue, or any other source
            whose rows have `fields.answer`, or several in a mixture.
        split: of generated problems, `heldout` or `train`; always without label
            noise and no two with the same prompt. Other sources have their own:
            `config.split`, another file, or `where`.
        n: how many, the first ones of the source. None: all of a file, or
            `synthetic.examples` generated ones.

    Raises:
        ValueError: the split has fewer than n distinct problems, a source holds none,
            a mixture has generated ones, or a row cannot be used and `on_bad_row` is
            `error`.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of " + ", ".join(SPLITS))
    if isinstance(config, SyntheticConfig):
        config = DataConfig(synthetic=config)
    validate(config)
    if not config.mixture and config.source == "synthetic":
        return _generated_problems(config.synthetic, split, n)
    for i, source in enumerate(config.mixture):
        if source.source == "synthetic":
            raise ValueError(
                f"mixture[{i}].source of the problems is synthetic; expected sources"
                " with a gold answer in each row, or generated problems alone"
            )
    report = Report()
    found: list[Problem] = []
    for record in _records(config, report, train=False):
        assert record.answer is not None  # to_record has refused it otherwise
        found.append(
            Problem(record.messages, record.answer, record.origin, record.source)
        )
        if len(found) == n:
            break
    if not found:
        raise ValueError(f"no problem is left to evaluate on:\n{report}")
    return found


def bad_row(error: RowError, config: DataConfig, report: Report) -> None:
    """Raises the error, or counts it in the report, as `on_bad_row` says."""
    if config.on_bad_row == "error":
        raise error
    report.skip(error)


def _records(config: DataConfig, report: Report, *, train: bool) -> Iterator[Record]:
    for source in sources(config):
        used = 0
        for record in _records_of(source, config, report, train):
            used += 1
            yield record
            if used == source.limit:
                report.limited = True
                break


def _records_of(
    source: SourceConfig, config: DataConfig, report: Report, train: bool
) -> Iterator[Record]:
    name = source_name(source)
    if source.source == "synthetic":
        for i in range(source.synthetic.examples):
            report.count("rows", name)
            record = generate(source.synthetic, i)
            yield dataclasses.replace(record, id=record.origin, source=name)
        return
    rows, fields = _open(source, train)
    tests = conditions(source.where)
    for origin, raw in rows:
        report.count("rows", name)
        try:
            row = parse_row(raw, origin)
            unmet_by = unmet(row, tests, origin)
            if unmet_by is not None:
                report.filter(unmet_by, name)
                continue
            own = row["id"] if source.source == "tfds" else origin.rpartition("/")[2]
            record = to_record(row, fields, origin, train=train, id=own, source=name)
        except RowError as error:
            report.note("bad", name)
            bad_row(error, config, report)
            continue
        yield record


def _open(
    source: SourceConfig, train: bool
) -> tuple[Iterator[tuple[str, Row]], FieldMap]:
    """The rows of a source that is no generator, and which parts of them to take."""
    if source.source == "jsonl":
        return read_lines(paths(source)), source.fields
    if source.source == "parquet":
        return read_parquet(paths(source)), source.fields
    if source.source == "hf_dataset":
        assert isinstance(source.path, str)  # validate has refused it otherwise
        return read_files(split_files(source.path, source.split)), source.fields
    from targetsft_jax.data.catalogue import builder, conversation

    assert source.dataset is not None
    assert source.path is None or isinstance(source.path, str)
    built, split = builder.ready(
        source.dataset, source.split, source.data_dir, source.path
    )
    rows = (
        (origin, conversation.as_row(example))
        for origin, example in builder.read(built, split)
    )
    if source.fields != FieldMap():
        return rows, source.fields
    return rows, conversation.TRAIN if train else conversation.EVALUATE


def _generated_problems(
    config: SyntheticConfig, split: str, n: int | None
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
            f" ones; expected {wanted}: raise synthetic.digits or ask for fewer"
        )
    return list(found.values())
