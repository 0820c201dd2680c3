"""Encode the records of a data section as tokenized examples, source by source."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from targetsft_jax.data import chat, thinking
from targetsft_jax.data.chat import Example
from targetsft_jax.data.config import DataConfig, origins, source_name, sources
from targetsft_jax.data.examples import Arrays, flat_parts
from targetsft_jax.data.record import Record
from targetsft_jax.data.records import bad_row, read_records
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.row_error import RowError
from targetsft_jax.data.shapes import requested
from targetsft_jax.data.token_limit import stored_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_TEXT = "the end of each text"
_MARKS = "the chat template's {% generation %} marks"
_PREFIX = "the prefix property of the chat template, verified for each turn"


class Encoder:
    """Encodes a data section as flat arrays: an `ArrayMaker` of `token_cache`.

    Args:
        config: the data section.
        tokenizer: with the chat template.
        prompt: template in place of each row's prompt; None: its own.

    Attributes:
        report: counts of rows, updated while the parts are read.

    Raises:
        ValueError: the tokenizer has no chat template, and a source needs one by its
            keys.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: "PreTrainedTokenizerBase",
        prompt: str | None = None,
    ):
        maps = [requested(source) for source in sources(config)]
        if any(each is not None and each.text is None for each in maps):
            chat.marks_assistant(tokenizer)
        self._config, self._tokenizer, self._prompt = config, tokenizer, prompt
        self._first: Example | None = None
        self._kinds: set[bool] = set()
        self.report = DataReport()

    def parts(self) -> Iterator[Arrays]:
        """Parts of the arrays that `examples.from_flat` reads.

        Raises:
            ValueError: an unusable row while `on_bad_row` is `error`; no usable
                example.
        """
        empty = True
        for part in flat_parts(self._examples()):
            empty = False
            yield part
        if empty:
            raise nothing_left(self._config, self.report)

    def summary(self) -> dict[str, Any]:
        """The fields of the report."""
        return dataclasses.asdict(self.report)

    def _examples(self) -> Iterator[Example]:
        numbers = {source_name(s): i for i, s in enumerate(sources(self._config))}
        records = read_records(self._config, self.report, prompt=self._prompt)
        for name, group in itertools.groupby(records, lambda record: record.source):

            def refuse(error: RowError, name: str = name) -> None:
                self.report.count_source("bad", name)
                bad_row(error, self._config, self.report)

            conversations = self._apply_thinking(group, refuse)
            for example in chat.encode_all(
                conversations,
                self._tokenizer,
                refuse,
                limit=stored_tokens(self._config.max_length),
            ):
                problem = self._unequal_columns(example)
                if problem is not None:
                    refuse(RowError(example.origin, problem))
                    continue
                self.report.count_source("encoded", name)
                yield dataclasses.replace(example, source=numbers[name])

    def _unequal_columns(self, example: Example) -> str | None:
        """Difference of an example's columns to those of the first one, in words."""
        first = self._first = self._first or example
        names = sorted(example.columns.keys() ^ first.columns.keys())
        if not names:
            return None
        has, other = ("a", "none") if names[0] in example.columns else ("no", "one")
        return (
            f"the row has {has} {names[0]} and {first.origin} has {other}; expected the"
            " field in all rows or in none"
        )

    def _apply_thinking(
        self, records: Iterable[Record], refuse: Callable[[RowError], None]
    ) -> Iterator[Record]:
        """Keep or drop thinking blocks according to `data.thinking`."""
        for record in records:
            self.report.mask_from = self._mask_from(record.is_text)
            try:
                yield thinking.treat(record, self._config.thinking)
            except RowError as error:
                refuse(error)

    def _mask_from(self, is_text: bool) -> str:
        """Origin of the loss mask, after a record with or without roles."""
        self._kinds.add(is_text)
        parts = [_TEXT] if True in self._kinds else []
        if False in self._kinds:
            parts.append(_MARKS if chat.marks_assistant(self._tokenizer) else _PREFIX)
        return "; ".join(parts)


def nothing_left(config: DataConfig, report: DataReport) -> ValueError:
    """Error for a data section without a usable example."""
    return ValueError(f"no example left to train on, from {origins(config)}:\n{report}")
