"""Rows of a live teacher with a prompt of its own, beside the student's rows.

Row r of both has the same examples in the same order. Their prompts differ, and their
trained tokens are equal, so that the n-th trained token of row r is the same for both:
the teacher's hidden state that predicts it is found by an index along the row.
"""

from dataclasses import dataclass, replace

import numpy as np

from targetsft_jax.data import packing
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.examples import MASK, TOKENS, Arrays, Examples
from targetsft_jax.data.packing import RowLayout
from targetsft_jax.data.prompted import NONE, aligned, trained_positions
from targetsft_jax.data.records import bad_row
from targetsft_jax.data.report import DataReport

INDEX = "teacher_index"
"""Array of a batch: positions in the teacher's rows."""

ROWS = {
    "tokens": "teacher_tokens",
    "segment_ids": "teacher_segment_ids",
    "positions": "teacher_positions",
}
"""Array of a row -> its name in a batch for the teacher's rows."""


@dataclass(frozen=True)
class TeacherPrompt:
    """A teacher's own prompt.

    Attributes:
        template: template over the fields of a row, in place of its prompt.
        max_length: tokens per row of the teacher's.
    """

    template: str
    max_length: int


@dataclass(frozen=True)
class TeacherRows:
    """The rows that the teacher reads.

    Attributes:
        examples: the tokenized examples under the teacher's prompt.
        layout: their rows, one for each of the student's.
    """

    examples: Examples
    layout: RowLayout

    @classmethod
    def of(
        cls, examples: Examples, counterparts: np.ndarray, layout: RowLayout
    ) -> "TeacherRows":
        """The teacher's side of a layout.

        Args:
            examples: the examples under the teacher's prompt.
            counterparts: [N] index in them of each of the student's examples.
            layout: rows of the student, with `teacher_lengths`.
        """
        assert layout.teacher_lengths is not None
        columns = {name: examples.columns[name] for name in (TOKENS, MASK)}
        theirs = replace(
            layout,
            examples=counterparts[layout.examples],
            lengths=layout.teacher_lengths,
            row_length=layout.teacher_row_length,
            teacher_lengths=None,
            teacher_row_length=0,
        )
        return cls(replace(examples, columns=columns), theirs)

    def take(self, loss_mask: np.ndarray, rows: np.ndarray) -> Arrays:
        """Arrays of the teacher's rows with indices [n].

        Args:
            loss_mask: [n, L] bool, of the student's rows with these indices.
            rows: [n] int, 0 to R − 1.

        Returns:
            teacher_tokens, teacher_segment_ids and teacher_positions [n, L_T] int32, as
            in `packing.build_rows`; and teacher_index [n, L] int32, see `label_index`.
        """
        arrays = packing.build_rows(self.examples, self.layout, rows)
        index = label_index(loss_mask, arrays[MASK])
        return {name: arrays[key] for key, name in ROWS.items()} | {INDEX: index}


def label_index(loss_mask: np.ndarray, teacher_mask: np.ndarray) -> np.ndarray:
    """Position in the teacher's row of each trained label of the student's row.

    Args:
        loss_mask: [n, L] bool, True where the label is trained.
        teacher_mask: [n, L_T] bool, the same of the teacher's rows, with as many
            labels in each row.

    Returns:
        [n, L] int32; 0 where no label is trained.
    """
    index = np.zeros(loss_mask.shape, np.int32)
    # Both are in the order of rows, and of labels within a row.
    index[loss_mask] = np.nonzero(teacher_mask)[1]
    return index


@dataclass(frozen=True)
class Pair:
    """Trained tokens of one example, by their positions in it.

    Attributes:
        student: [n] int, positions of the trained tokens in the student's row.
        teacher: [m] int, those in the teacher's example.
    """

    student: np.ndarray
    teacher: np.ndarray

    def fitting(self, row_length: int) -> int:
        """Number of the student's trained tokens that a row of the teacher holds."""
        fits = int(np.searchsorted(self.teacher, row_length))
        return min(len(self.student), fits)


def align_and_fit(
    config: DataConfig,
    examples: tuple[Examples, Examples],
    fitted: tuple[np.ndarray, np.ndarray],
    row_length: int,
    report: DataReport,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Find the teacher's example for each of the student's, and limit both to a row.

    Args:
        config: the data section; its `overlong` and `on_bad_row` are read.
        examples, fitted, row_length, report: as in `fit_to_teacher_rows`.

    Returns:
        counterparts: [N] index in the teacher's examples of each of the student's;
            usable: see `fit_to_teacher_rows`.

    Raises:
        RowError: trained tokens that differ while `on_bad_row` is `error`.
        ValueError: as `fit_to_teacher_rows`.
    """
    student, teacher = examples
    counterparts = aligned(
        teacher, student, lambda error: bad_row(error, config, report)
    )
    usable = fit_to_teacher_rows(
        examples, counterparts, fitted, row_length, config.overlong, report
    )
    return counterparts, usable


def fit_to_teacher_rows(
    examples: tuple[Examples, Examples],
    counterparts: np.ndarray,
    fitted: tuple[np.ndarray, np.ndarray],
    row_length: int,
    overlong: str,
    report: DataReport,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Limit examples that fit the student's rows to those that fit the teacher's.

    The teacher reads an example up to its last trained token.

    Args:
        examples: the student's N examples, and the teacher's.
        counterparts: [N] index in the teacher's examples of each of the student's;
            `NONE`: the example is left out.
        fitted: indices [K] and lengths [K] of examples, from `packing.fit_to_rows`.
        row_length: L_T, tokens per row of the teacher.
        overlong: for an example that the teacher's row does not hold: `truncate` cuts
            both sides behind the last trained token that it holds, `drop` leaves the
            example out, `error` raises.
        report: counts truncated and dropped examples.

    Returns:
        Indices [J] of the usable examples, and their lengths [J] in the rows of the
        student and of the teacher.

    Raises:
        ValueError: an example does not fit and `overlong` is `error`.
    """
    student, teacher = examples
    usable: list[tuple[int, int, int]] = []
    for number, length in zip(*(x.tolist() for x in fitted)):
        if counterparts[number] == NONE:
            continue
        pair = Pair(
            trained_positions(student, number, length),
            trained_positions(teacher, int(counterparts[number])),
        )
        count = pair.fitting(row_length)
        if count == len(pair.student):
            usable.append((number, length, int(pair.teacher[count - 1]) + 1))
            continue
        report.beyond_teacher += 1
        if overlong == "error":
            raise ValueError(_too_long(student, number, pair, row_length))
        if overlong == "drop":
            report.drop("longer than a row of the teacher")
        elif not count:
            report.drop("no trained token left in a row of the teacher")
        else:
            report.truncated += int(length == student.lengths[number])
            ends = (int(x[count - 1]) + 1 for x in (pair.student, pair.teacher))
            usable.append((number, *ends))
    numbers, lengths, theirs = np.array(usable, np.int64).reshape(-1, 3).T
    return numbers, lengths, theirs


def _too_long(student: Examples, number: int, pair: Pair, row_length: int) -> str:
    cut = len(pair.teacher) < len(pair.student)
    needed = int(pair.teacher[-1]) + 1 if len(pair.teacher) else 0
    least = "at least " if cut else ""
    return (
        f"{student.origins[number]}: {least}{max(needed, row_length + 1):,} tokens "
        f"under teacher.prompt and teacher.max_length is {row_length:,}; raise it, or "
        "set data.overlong to truncate or drop"
    )
