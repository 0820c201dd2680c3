"""Average@k: the mean over problems of the mean over k samples."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AverageAtK:
    """Scores of one model on one set of problems, as shares, unrounded."""

    average_at_k: float
    """Mean share of correct samples."""
    standard_error: float
    """Of that mean, over problems; nan for a single problem."""
    pass_at_k: float
    """Share of problems with at least one correct sample."""
    no_answer: float
    """Share of samples that state no answer (they count as wrong)."""
    truncated: float
    """Share of samples cut off by the length limit."""
    problems: int
    k: int


def average_at_k(
    correct: np.ndarray,
    *,
    answered: np.ndarray | None = None,
    truncated: np.ndarray | None = None,
) -> AverageAtK:
    """Aggregates graded samples.

    The standard error is over problems, not samples: samples of one problem are not
    independent.

    Args:
        correct: [P, k] bool.
        answered: [P, k] bool, whether a sample states an answer; None: all do.
        truncated: [P, k] bool, whether a sample was cut off; None: none was.

    Raises:
        ValueError: a matrix is empty, not boolean or of another shape; a sample is
            correct and unanswered.
    """
    correct = _matrix("correct", correct, np.shape(correct))
    problems, k = correct.shape
    if answered is None:
        answered = np.ones_like(correct)
    if truncated is None:
        truncated = np.zeros_like(correct)
    answered = _matrix("answered", answered, correct.shape)
    truncated = _matrix("truncated", truncated, correct.shape)
    if (correct & ~answered).any():
        raise ValueError("a sample is correct and states no answer; check the grading")
    each = correct.mean(axis=1)  # [P]
    spread = each.std(ddof=1) / np.sqrt(problems) if problems > 1 else np.nan
    return AverageAtK(
        average_at_k=float(each.mean()),
        standard_error=float(spread),
        pass_at_k=float(correct.any(axis=1).mean()),
        no_answer=float(1 - answered.mean()),
        truncated=float(truncated.mean()),
        problems=problems,
        k=k,
    )


def table(scores: Mapping[str, AverageAtK]) -> str:
    """Scores of several models as a Markdown table, in percent, in the order given.

    The heading names k; models measured with different k get a row each that says so.
    """
    ks = {score.k for score in scores.values()}
    k = str(ks.pop()) if len(ks) == 1 else "k"
    head = ("model", f"Average@{k}", f"Pass@{k}", "no answer", "truncated", "problems")
    rows = [head]
    for name, score in scores.items():
        label = name if k != "k" else f"{name} (k={score.k})"
        rows.append(
            (
                label,
                f"{100 * score.average_at_k:.2f} ± {100 * score.standard_error:.2f}",
                *(
                    f"{100 * share:.2f}"
                    for share in (score.pass_at_k, score.no_answer, score.truncated)
                ),
                str(score.problems),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths)) + " |"
        for row in rows
    ]
    rule = ["-" * widths[0]] + ["-" * (w - 1) + ":" for w in widths[1:]]
    return "\n".join([lines[0], "| " + " | ".join(rule) + " |", *lines[1:]])


def _matrix(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values)
    wanted = "[problems, k]" if len(shape) != 2 else str(shape)
    if values.shape != shape or values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"{name} has shape {values.shape}; expected {wanted}, not empty"
        )
    if values.dtype != bool:
        raise ValueError(f"{name} is {values.dtype}; expected bool")
    return values
