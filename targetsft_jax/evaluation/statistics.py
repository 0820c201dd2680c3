"""Average@k: the mean over problems of the mean over k completions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from targetsft_jax.evaluation.estimates import average
from targetsft_jax.evaluation.markdown import markdown


@dataclass(frozen=True)
class AverageAtK:
    """Scores of a model on a set of problems, as shares from 0 to 1."""

    average_at_k: float
    """Mean share of correct completions."""
    standard_error: float
    """Standard error of that mean over problems; nan for a single problem."""
    pass_at_k: float
    """Share of problems with at least one correct completion."""
    no_answer: float
    """Share of completions without a stated answer; they count as wrong."""
    truncated: float
    """Share of completions that reached the length limit; they count as wrong."""
    problems: int
    k: int


def average_at_k(
    correct: np.ndarray,
    *,
    has_answer: np.ndarray | None = None,
    truncated: np.ndarray | None = None,
) -> AverageAtK:
    """Average@k, Pass@k and standard error from the verdicts of completions.

    The standard error is over problems, since completions of one problem are not
    independent.

    Args:
        correct: [P, k] bool.
        has_answer: [P, k] bool, True where the completion states an answer; None: all.
        truncated: [P, k] bool, True where the completion is truncated; None: nowhere.

    Raises:
        ValueError: an array is empty, not boolean or of another shape; a completion is
            correct and states no answer.
    """
    correct = _matrix("correct", correct, np.shape(correct))
    problems, k = correct.shape
    if has_answer is None:
        has_answer = np.ones_like(correct)
    if truncated is None:
        truncated = np.zeros_like(correct)
    has_answer = _matrix("has_answer", has_answer, correct.shape)
    truncated = _matrix("truncated", truncated, correct.shape)
    if (correct & ~has_answer).any():
        raise ValueError(
            "a completion is correct and states no answer; check the grader"
        )
    estimate = average(correct)
    return AverageAtK(
        average_at_k=estimate.value,
        standard_error=estimate.standard_error,
        pass_at_k=float(correct.any(axis=1).mean()),
        no_answer=float(1 - has_answer.mean()),
        truncated=float(truncated.mean()),
        problems=problems,
        k=k,
    )


def table(scores: Mapping[str, AverageAtK]) -> str:
    """Format scores by model name as a Markdown table, in percent.

    The heading has k; if the models have different k, the row labels have it.
    """
    ks = {score.k for score in scores.values()}
    k = str(ks.pop()) if len(ks) == 1 else "k"
    head = ("model", f"Average@{k}", f"Pass@{k}", "no answer", "truncated", "problems")
    rows: list[tuple[str, ...]] = [head]
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
    return markdown(rows)


def _matrix(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.asarray(values)
    expected = "[problems, k]" if len(shape) != 2 else str(shape)
    if values.shape != shape or values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"{name} has shape {values.shape}; expected {expected}, not empty"
        )
    if values.dtype != bool:
        raise ValueError(f"{name} is {values.dtype}; expected bool")
    return values
