"""Preview of a data set: packed rows as text, duplicates, overlap with evaluation."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.data import chat
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.overlap import WORDS, Cases, Duplicates, Overlap
from targetsft_jax.data.pipeline import Dataset, prepare, rows_at
from targetsft_jax.data.records import Problem, load_records
from targetsft_jax.data.teacher_rows import TeacherPrompt, TeacherRows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A terminal would obey them: escape sequences, and marks that reverse the text.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def print_preview(
    config: DataConfig,
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem] | None = None,
    *,
    cache_dir: str | None = None,
    held_out: int = 0,
    rows: int = 3,
    seed: int = 0,
    teacher: TeacherPrompt | None = None,
) -> None:
    """Print the first rows of a run, its data report, duplicates and overlaps.

    Args:
        config: the data section.
        tokenizer: the student's tokenizer, with the chat template.
        problems: problems of the evaluation; None: there is no evaluation.
        cache_dir, held_out: as in `prepare`.
        rows: number of rows to print.
        seed: seed of the row order.
        teacher: as in `prepare`.

    Raises:
        ValueError: as `prepare`.
    """
    from rich.console import Console
    from rich.text import Text

    # No wrapping, so that lines break where those of the data do.
    console = Console(soft_wrap=True, highlight=False)
    dataset = prepare(
        config, tokenizer, cache_dir, held_out=held_out, teacher=teacher
    ).train
    for line in show_rows(dataset, tokenizer, rows, seed):
        text = Text(_CONTROL.sub(_escaped, line))
        text.highlight_regex(r"⟦[^⟧]*⟧", "green")
        text.highlight_regex(r"^(row|  segment) \d.*", "bold")
        console.print(text)
    console.print("\ndata", style="bold")
    lines = [*dataset.cache_log, *dataset.report.lines()]
    for line in [*lines, *find_repetitions(config, problems)]:
        console.print(Text(_CONTROL.sub(_escaped, f"  {line}")))


def show_rows(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", rows: int, seed: int
) -> Iterator[str]:
    """Format the first rows of a run, segment by segment, with trained tokens marked.

    The marks follow the label mask, which the loss uses.
    """
    if rows < 1:
        return
    for number in rows_at(dataset, 0, batch_size=rows, seed=seed)[0].tolist():
        row = {name: x[0] for name, x in dataset.take(np.array([number])).items()}
        segments, length = row["segment_ids"], len(row["segment_ids"])
        tokens_in_row = int((segments > 0).sum())
        yield (
            f"row {number}: {segments.max()} segments, {tokens_in_row:,} of"
            f" {length:,} tokens, {int(row['loss_mask'].sum()):,} trained"
        )
        for segment, origin in enumerate(dataset.origins(number), 1):
            inside = segments == segment
            tokens, mask = row["tokens"][inside], row["loss_mask"][inside]
            # The mask at a position is that of its label, the next token.
            trained = np.concatenate([[False], mask[:-1]])
            yield (
                f"  segment {segment}: {len(tokens):,} tokens, {int(mask.sum()):,}"
                f" trained, {origin}"
            )
            yield chat.show(chat.Example(tokens, trained), tokenizer)
        if dataset.teacher_rows is not None:
            yield from _show_teacher_row(dataset.teacher_rows, number, tokenizer)


def _show_teacher_row(
    rows: TeacherRows, number: int, tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[str]:
    """Format the same row as the teacher reads it."""
    layout = rows.layout
    part = layout.segments(number)
    lengths = layout.lengths[part].tolist()
    yield (
        f"row {number} of the teacher: {len(lengths)} segments, {sum(lengths):,} of"
        f" {layout.row_length:,} tokens"
    )
    for segment, (example, length) in enumerate(
        zip(layout.examples[part].tolist(), lengths), 1
    ):
        origin = rows.examples.origins[example]
        yield f"  segment {segment}: {length:,} tokens, {origin}"
        yield chat.show(rows.examples.take(example, length), tokenizer)


def find_repetitions(
    config: DataConfig, problems: Sequence[Problem] | None
) -> Iterator[str]:
    """Count duplicate records and those that overlap with the evaluation, as lines.

    Args:
        config: the data section.
        problems: problems of the evaluation; None: there is no evaluation.
    """
    duplicates, overlap = Duplicates(), Overlap(problems or ())
    # The report of the data set has counted bad rows already.
    records, _ = load_records(config)
    for record in records:
        duplicates.add(record)
        overlap.add(record)
    yield from _describe("same conversation", duplicates.conversations)
    yield from _describe("same prompt, another response", duplicates.prompts)
    if problems is None:
        yield "overlap with evaluation: not computed, since there is no evaluation"
        return
    yield f"overlap with the {len(problems):,} problems of the evaluation"
    yield from _describe("same question", overlap.exact)
    yield from _describe(f"{WORDS} consecutive words", overlap.shared)


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()


def _describe(kind: str, cases: Cases) -> Iterator[str]:
    yield f"{kind:<30} {cases.count:,}"
    for id, other in cases.first:
        yield f"  {id} and {other}"
    if cases.count > len(cases.first):
        yield f"  … and {cases.count - len(cases.first):,} more"
