"""`python -m targetsft_jax.data preview --config FILE`: rows as a model sees them."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from targetsft_jax.config.schema import Config, ConfigError, load
from targetsft_jax.data import chat
from targetsft_jax.data.chat_templates import with_template
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.overlap import WORDS, Cases, Duplicates, Overlap
from targetsft_jax.data.pipeline import Dataset, prepare_parts, rows_at
from targetsft_jax.data.records import load_records, problems
from targetsft_jax.data.tokenizer import byte_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def main(arguments: Sequence[str]) -> int:
    """Run the command; 0 where it is done, 1 where it cannot be, 2 for a bad config.

    Args:
        arguments: `--rows N`, and what the train command takes.
    """
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.data preview",
        description="Show rows of tokens as the model will see them, what is trained"
        " between ⟦ and ⟧, and count what became of the data. All keys of the train"
        " command are taken; no weights are read.",
    )
    parser.add_argument("--rows", type=int, default=3, help="how many to show (3)")
    own, rest = parser.parse_known_args(arguments)
    try:
        config = load(rest)
    except ConfigError as error:
        sys.stderr.write(f"configuration: {error}\n")
        return 2
    try:
        _preview(config, own.rows)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def _preview(config: Config, rows: int) -> None:
    from rich.console import Console
    from rich.text import Text

    # Colour on a terminal; no wrapping, since lines are those of the data.
    console = Console(soft_wrap=True, highlight=False)
    tokenizer = with_template(_tokenizer(config), config.data.chat_template)
    held_out = config.validation.examples
    dataset, _ = prepare_parts(
        config.data, tokenizer, config.cache_dir, held_out=held_out
    )
    for line in shown(dataset, tokenizer, rows, config.seed):
        text = Text(line)
        text.highlight_regex(r"⟦[^⟧]*⟧", "green")
        text.highlight_regex(r"^(row|  segment) \d.*", "bold")
        console.print(text)
    console.print("\ndata", style="bold")
    for line in [*dataset.cached, *dataset.report.lines(), *_repeated(config)]:
        console.print(Text(f"  {line}"))


def shown(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", rows: int, seed: int
) -> Iterator[str]:
    """Lines that show the first rows of a training, segment by segment.

    What is trained is read off the labels' mask, so that it is what the loss sees.
    """
    if rows < 1:
        return
    for number in rows_at(dataset, 0, batch_size=rows, seed=seed)[0].tolist():
        row = {name: x[0] for name, x in dataset.take(np.array([number])).items()}
        segments, places = row["segment_ids"], len(row["segment_ids"])
        used = int((segments > 0).sum())
        yield (
            f"row {number}: {segments.max()} segments, {used:,} tokens in {places:,}"
            f" places, {int(row['loss_mask'].sum()):,} trained"
        )
        for segment, origin in enumerate(dataset.origins(number), 1):
            inside = segments == segment
            tokens, mask = row["tokens"][inside], row["loss_mask"][inside]
            # A place's mask is that of its label, the next token.
            trained = np.concatenate([[False], mask[:-1]])
            yield (
                f"  segment {segment}: {len(tokens):,} tokens, {int(mask.sum()):,}"
                f" trained, {origin}"
            )
            yield chat.show(chat.Example(tokens, trained), tokenizer)


def _repeated(config: Config) -> Iterator[str]:
    """Lines on duplicates, and on what is trained and measured too."""
    duplicates, measured = Duplicates(), _measured(config)
    overlap = Overlap(measured or ())
    # Bad rows are in the report already.
    records, _ = load_records(config.data)
    for record in records:
        duplicates.add(record)
        overlap.add(record)
    yield from _cases("same conversation", duplicates.conversations)
    yield from _cases("same prompt, another response", duplicates.prompts)
    if measured is None:
        yield "overlap with evaluation: not looked for, as nothing is measured"
        return
    yield f"overlap with the {len(measured):,} problems of the evaluation"
    yield from _cases("same question", overlap.exact)
    yield from _cases(f"{WORDS} words in a row in common", overlap.shared)


def _measured(config: Config):
    asked = config.evaluation
    if asked.data is None and not asked.problems:
        return None
    data: DataConfig = asked.data or config.data
    return problems(data, "heldout", asked.problems or None)


def _cases(what: str, cases: Cases) -> Iterator[str]:
    yield f"{what:<30} {cases.count:,}"
    for own, other in cases.first:
        yield f"  {own} and {other}"
    if cases.count > len(cases.first):
        yield f"  … and {cases.count - len(cases.first):,} more"


def _tokenizer(config: Config) -> "PreTrainedTokenizerBase":
    """The student's tokenizer alone."""
    if config.student.build:
        return byte_tokenizer()
    from targetsft_jax.checkpoints.open import open_model

    return open_model(config.student.path, weights=False).tokenizer()
