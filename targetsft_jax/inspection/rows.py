"""Rows of a page: the first examples of the training data, encoded as for training."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from targetsft_jax.command import UsageError
from targetsft_jax.data.chat import Example
from targetsft_jax.data.config import (
    FILES,
    DataConfig,
    SourceConfig,
    source_name,
    sources,
)
from targetsft_jax.data.encoding import Encoder, nothing_left
from targetsft_jax.data.examples import Examples, from_flat, join_parts
from targetsft_jax.data.packing import fit_to_rows
from targetsft_jax.data.prompted import prompted_examples
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.teacher_rows import TeacherPrompt, align_and_fit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LARGEST_TOKENS, LARGEST_TRAINED = 200_000, 50_000
"""Tokens of a page, and trained ones; a page of 12,000 trained tokens has some 4 MB."""

_GROWTH = 4

Pair = tuple[Example, Example | None]
"""An example, and the same as a teacher with a prompt of its own reads it."""


@dataclass(frozen=True)
class PageRows:
    """Examples of a page.

    Attributes:
        examples: tokens, loss mask and columns of each, truncated as for training.
        source: the selection in words, such as "the first 20 examples of train.jsonl".
        report: counts of rows that were read, truncated and left out.
        teacher: the same examples as a teacher with a prompt of its own reads them;
            None: it reads those of the student.
    """

    examples: Sequence[Example]
    source: str
    report: DataReport
    teacher: Sequence[Example] | None = None

    @property
    def columns(self) -> frozenset[str]:
        """Names of the per-token inputs that the data has."""
        return frozenset(self.examples[0].columns)

    def lines(self) -> list[str]:
        """Shape of the rows, and truncated and left-out ones, one line per reason."""
        report = self.report
        read = f"of the {report.rows:,} rows that were read, "
        counts = {
            "truncated to data.max_length": report.truncated,
            "unusable and left out": report.bad,
            **{f"left out ({reason})": n for reason, n in report.dropped.items()},
        }
        lines = [f"read as {fact}" for fact in report.read_as.values()]
        return lines + [f"{read}{n:,} {what}" for what, n in counts.items() if n]


def data_of_file(data: DataConfig, path: str) -> DataConfig:
    """The data section with a file, folder or pattern in place of its sources.

    Template, length and the map of fields remain, the latter if the section reads files
    itself; filters and limits of its sources do not.

    Args:
        data: data section of a configuration.
        path: file of any kind that `data.path` may have.
    """
    reads_files = not data.mixture and data.kind in (*FILES, "hf_dataset")
    default = SourceConfig()
    names = ("name", "dataset", "data_dir", "split", "where", "limit", "weight")
    return dataclasses.replace(
        data,
        **{name: getattr(default, name) for name in names},
        mixture=[],
        source="files",
        path=path,
        fields=data.fields if reads_files else default.fields,
    )


def read_rows(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    rows: int | None,
    teacher: TeacherPrompt | None = None,
) -> PageRows:
    """Read the first usable examples, in the order of the files.

    Template, loss mask, filters, truncation and bad rows are those of training;
    shuffling and packing, on which no token depends, are left out. Sources of a
    mixture take turns.

    Args:
        data: data section of a configuration.
        tokenizer: with the chat template.
        rows: number of examples; None for all.
        teacher: prompt of a teacher that has its own, and its rows.

    Raises:
        UsageError: more tokens than a page can hold.
        ValueError: as `data.pipeline.prepare`.
    """
    # An example has two tokens at least, so that no more can be within the limit.
    most = LARGEST_TOKENS // 2 if rows is None else rows
    share = -(-most // len(sources(data)))
    while True:
        pairs, report, is_exhausted = _encode(data, tokenizer, share, teacher)
        if len(pairs) >= most or is_exhausted:
            break
        share *= _GROWTH
    pairs = _in_turns(pairs)[:most]
    if not pairs:
        raise nothing_left(data, report)
    examples = [example for example, _ in pairs]
    _check_size(examples)
    theirs = [other for _, other in pairs if other is not None]
    described = _describe(data, len(examples), rows)
    return PageRows(examples, described, report, theirs or None)


def _encode(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    share: int,
    teacher: TeacherPrompt | None,
) -> tuple[list[Pair], DataReport, bool]:
    """Usable examples of the first `share` records of each source.

    Returns:
        The examples, source by source, each with that of the teacher; the report; True
        if there are no more records.
    """
    limited = _limited(data, share)
    encoder = Encoder(limited, tokenizer)
    examples = from_flat(join_parts(encoder.parts()))
    report = encoder.report
    fitted = fit_to_rows(examples, data.max_length, data.overlong, report)
    usable: list[Pair]
    if teacher is None:
        usable = [(examples.take(int(n), int(k)), None) for n, k in zip(*fitted)]
    else:
        usable = _with_teacher(limited, tokenizer, examples, fitted, teacher, report)
    limits = [source.limit for source in sources(data)]
    is_all = all(limit is not None and limit <= share for limit in limits)
    return usable, report, is_all or not report.limited


def _with_teacher(
    data: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    examples: Examples,
    fitted: tuple[np.ndarray, np.ndarray],
    teacher: TeacherPrompt,
    report: DataReport,
) -> list[Pair]:
    """The examples with those of a teacher with a prompt of its own."""
    theirs = prompted_examples(data, tokenizer, teacher.template)
    counterparts, usable = align_and_fit(
        data, (examples, theirs), fitted, teacher.max_length, report
    )
    return [
        (examples.take(n, k), theirs.take(int(counterparts[n]), m))
        for n, k, m in zip(*(x.tolist() for x in usable))
    ]


def _limited(data: DataConfig, share: int) -> DataConfig:
    """The section with at most `share` records of each source."""

    def limited(source: Any) -> Any:
        limit = share if source.limit is None else min(source.limit, share)
        return dataclasses.replace(source, limit=limit)

    if not data.mixture:
        return limited(data)
    return dataclasses.replace(data, mixture=[limited(part) for part in data.mixture])


def _in_turns(pairs: Sequence[Pair]) -> list[Pair]:
    """Examples of all sources by turns, each source in its own order."""
    counts: dict[int, int] = {}
    places = []
    for example, _ in pairs:
        place = counts.get(example.source, 0)
        counts[example.source] = place + 1
        places.append((place, example.source))
    order = sorted(range(len(pairs)), key=places.__getitem__)
    return [pairs[i] for i in order]


def _check_size(examples: Sequence[Example]) -> None:
    """Refuse more tokens than a browser can show."""
    tokens = np.cumsum([len(example.tokens) for example in examples])
    trained = np.cumsum([int(example.loss_mask[1:].sum()) for example in examples])
    fits = (tokens <= LARGEST_TOKENS) & (trained <= LARGEST_TRAINED)
    if fits.all():
        return
    fitting = int(fits.sum())
    remedy = f"such as --rows {fitting}" if fitting else "or shorter ones"
    raise UsageError(
        f"the {len(examples):,} rows have {tokens[-1]:,} tokens, {trained[-1]:,} of "
        f"them trained, and a page holds at most {LARGEST_TOKENS:,} tokens and "
        f"{LARGEST_TRAINED:,} trained ones; specify fewer rows, {remedy}"
    )


def _describe(data: DataConfig, count: int, rows: int | None) -> str:
    names = ", ".join(
        "the generated problems" if source.kind == "synthetic" else source_name(source)
        for source in sources(data)
    )
    which = "all" if rows is None else "the first"
    return f"{which} {count:,} examples of {names}"
