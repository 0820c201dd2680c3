"""Packed rows of a data section: shuffled, held-out examples apart; their report."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from targetsft_jax.data import mixture, packing
from targetsft_jax.data.config import DataConfig, source_name, sources
from targetsft_jax.data.dropped import check_dropped
from targetsft_jax.data.encoding import nothing_left
from targetsft_jax.data.examples import Arrays, Examples
from targetsft_jax.data.fingerprint import fingerprint
from targetsft_jax.data.packing import RowLayout
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.teacher_rows import TeacherRows, align_and_fit
from targetsft_jax.targets.inputs import INPUTS

HELD_OUT = "held_out_"
"""Prefix of the arrays of held-out rows."""

COUNTERPARTS = "counterparts"
"""Array with the index of the teacher's example for each of the student's."""


@dataclasses.dataclass(frozen=True)
class _Selection:
    """Examples in packing order: K indices, and their lengths in the rows.

    Attributes:
        numbers, lengths: of the student.
        teacher: lengths in the teacher's rows, and the length of these rows; None: the
            teacher has no rows of its own.
    """

    numbers: np.ndarray
    lengths: np.ndarray
    teacher: tuple[np.ndarray, int] | None

    def take(self, which: Any) -> "_Selection":
        """Some of them, in this order."""
        teacher = self.teacher and (self.teacher[0][which], self.teacher[1])
        return _Selection(self.numbers[which], self.lengths[which], teacher)


class Packer:
    """Packs shuffled examples into held-out and training rows: an `ArrayMaker`.

    Args:
        config: the data section.
        examples: its tokenized examples.
        report: their report.
        held_out: number of examples held out from training.
        teacher: the examples under a teacher's own prompt, and the length of its rows.

    Attributes:
        report: report of the encoded examples, completed by the packing.
    """

    def __init__(
        self,
        config: DataConfig,
        examples: Examples,
        report: DataReport,
        held_out: int,
        teacher: tuple[Examples, int] | None = None,
    ):
        self._config, self._examples, self.report = config, examples, report
        self._held_out, self._teacher = held_out, teacher
        self._counterparts: np.ndarray | None = None
        self._summary: dict[str, Any] = {}

    def parts(self) -> Iterator[Arrays]:
        """Arrays of both layouts, as a single part."""
        chosen = self._shuffled()
        n = self._held_out
        self.report.held_out = n
        layout = self._pack_train(chosen.take(slice(n, None)))
        self._summary["train"] = self._describe(layout, self.report)
        arrays = layout.arrays()
        if self._counterparts is not None:
            arrays[COUNTERPARTS] = self._counterparts
        if n:
            part, config = chosen.take(slice(n)), self._config
            layout = packing.pack(
                part.numbers,
                part.lengths,
                config.max_length,
                packing=config.packing,
                teacher=part.teacher,
            )
            self._summary["held_out"] = self._describe(layout, DataReport())
            arrays |= {HELD_OUT + name: x for name, x in layout.arrays().items()}
        yield arrays

    def summary(self) -> dict[str, Any]:
        """Settings, report and fingerprint of both layouts."""
        return self._summary

    def _shuffled(self) -> _Selection:
        """The usable examples, shuffled by `shuffle_seed`."""
        config, report = self._config, self.report
        chosen = self._usable()
        if not len(chosen.numbers):
            raise nothing_left(config, report)
        row_length = None if self._teacher is None else self._teacher[1]
        check_dropped(config, report, self._examples.lengths, row_length)
        count = len(chosen.numbers)
        if self._held_out >= count:
            raise ValueError(
                f"validation.examples is {self._held_out:,} and the data has"
                f" {count:,} examples; expected fewer, since the rest are"
                f" trained on:\n{report}"
            )
        order = np.random.default_rng(config.shuffle_seed).permutation(count)
        return chosen.take(order)

    def _usable(self) -> _Selection:
        """Examples that fit the rows of the student, and those of the teacher."""
        config, report = self._config, self.report
        fitted = packing.fit_to_rows(
            self._examples, config.max_length, config.overlong, report
        )
        if self._teacher is None:
            return _Selection(*fitted, None)
        teacher, row_length = self._teacher
        self._counterparts, (numbers, lengths, theirs) = align_and_fit(
            config, (self._examples, teacher), fitted, row_length, report
        )
        return _Selection(numbers, lengths, (theirs, row_length))

    def _pack_train(self, chosen: _Selection) -> RowLayout:
        parts = sources(self._config)
        names = [source_name(part) for part in parts]
        source = self._examples.source[chosen.numbers]
        self.report.count_examples(names, source, chosen.lengths)
        for i, part in enumerate(parts):
            if part.weight is not None and i not in source:
                raise ValueError(
                    f"data.mixture[{i}] ({names[i]}) has no example left to train on;"
                    f" remove the source or its filters:\n{self.report}"
                )
        layout = mixture.pack_sources(
            self._config, source, chosen.numbers, chosen.lengths, chosen.teacher
        )
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
        if layout.teacher_lengths is not None:
            report.teacher_row_length = layout.teacher_row_length
            report.teacher_tokens = int(layout.teacher_lengths.sum())
        return {
            "settings": layout.settings(),
            "report": dataclasses.asdict(report),
            "fingerprint": self._fingerprint(layout),
        }

    def _fingerprint(self, layout: RowLayout) -> str:
        arrays = _facts(self._examples, layout)
        if self._teacher is not None and self._counterparts is not None:
            theirs = TeacherRows.of(self._teacher[0], self._counterparts, layout)
            facts = _facts(theirs.examples, theirs.layout)
            arrays |= {f"teacher_{name}": x for name, x in facts.items()}
        return fingerprint(arrays)


def _facts(examples: Examples, layout: RowLayout) -> Arrays:
    """Arrays that determine the rows."""
    return examples.columns | {
        "starts": examples.starts[layout.examples],
        "lengths": layout.lengths,
        "row_ends": layout.row_ends,
        "row_length": np.array(layout.row_length),
    }
