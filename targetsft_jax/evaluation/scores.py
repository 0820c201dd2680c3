"""Scores of a benchmark from its graded completions, and their tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from targetsft_jax.data.catalogue.entry import LETTERS
from targetsft_jax.evaluation.estimates import (
    Estimate,
    average,
    macro_average,
    majority_at_k,
    paired_difference,
    pass_at_k,
    sampling_error,
    smallest_visible_difference,
    verdict_matrix,
)
from targetsft_jax.evaluation.graders.grade import UNANSWERED
from targetsft_jax.evaluation.markdown import markdown
from targetsft_jax.evaluation.store import Row


@dataclass(frozen=True)
class BenchmarkScore:
    """Scores of one benchmark; shares from 0 to 1, unrounded.

    Attributes:
        average: Average@k with its standard error over problems and interval.
        sampling_error: standard error over other samples of the same problems.
        samples: k.
        pass_at_k: share of problems with a correct completion among k.
        majority_at_k: share of problems whose most frequent answer is correct.
        no_answer: share of completions without exactly one stated answer.
        truncated: share that reached the limit; they count as wrong.
        timeouts, errors: share whose grading was stopped, or failed.
        mean_tokens: tokens per completion; nan if the backend returns none.
        seconds: time of the sampling.
        scored: acc, acc_norm and acc_bytes, where options are scored; else empty.
    """

    average: Estimate
    sampling_error: float
    samples: int
    pass_at_k: float
    majority_at_k: float
    no_answer: float
    truncated: float
    timeouts: float
    errors: float
    mean_tokens: float
    seconds: float
    scored: Mapping[str, Estimate] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; nan becomes null."""
        return _finite(asdict(self))


def is_correct(row: Row) -> bool:
    """True for a finished completion with a correct answer."""
    return row.grade.correct and row.finished


def score(rows: Sequence[Row]) -> BenchmarkScore:
    """Compute the scores of the completions of one benchmark.

    Args:
        rows: k per problem, in any order.

    Raises:
        ValueError: problems have different samples.
    """
    correct = correct_matrix(rows)
    problems = {
        name: n for n, name in enumerate(dict.fromkeys(r.problem for r in rows))
    }
    samples = {number: n for n, number in enumerate(sorted({r.sample for r in rows}))}
    answers = np.full(correct.shape, -1)
    codes: dict[str, int] = {}
    for row in rows:
        if row.grade.extracted is not None and row.finished:
            # All correct answers are equivalent to the gold answer.
            text = "".join(row.grade.extracted.split()).casefold()
            answer = "correct" if is_correct(row) else f"wrong {text}"
            at = problems[row.problem], samples[row.sample]
            answers[at] = codes.setdefault(answer, len(codes))

    def share(condition: Any) -> float:
        return sum(map(condition, rows)) / len(rows)

    counts = [len(row.tokens) for row in rows if row.tokens]
    return BenchmarkScore(
        average=average(correct),
        sampling_error=sampling_error(correct),
        samples=correct.shape[1],
        pass_at_k=pass_at_k(correct, correct.shape[1]),
        majority_at_k=majority_at_k(answers, correct),
        no_answer=share(lambda row: row.grade.how in UNANSWERED),
        truncated=share(lambda row: not row.finished),
        timeouts=share(lambda row: row.grade.how == "timeout"),
        errors=share(lambda row: row.grade.how == "error"),
        mean_tokens=float(np.mean(counts)) if counts else math.nan,
        seconds=sum(row.seconds for row in rows),
        scored=_scored(rows),
    )


def correct_matrix(rows: Sequence[Row]) -> np.ndarray:
    """Verdicts [P, k] bool of completions, in the order of their problems.

    Raises:
        ValueError: problems have different samples.
    """
    return verdict_matrix({(r.problem, r.sample): is_correct(r) for r in rows})


def difference(rows: Sequence[Row], baseline: Sequence[Row]) -> Estimate:
    """Paired difference to another model on the same problems.

    Raises:
        ValueError: other problems.
    """
    first = list(dict.fromkeys(row.problem for row in rows))
    second = list(dict.fromkeys(row.problem for row in baseline))
    if set(first) != set(second):
        raise ValueError(
            f"the baseline has {len(second)} problems and this model {len(first)}, of "
            f"which {len(set(first) & set(second))} are shared; expected the same"
        )
    order = {name: number for number, name in enumerate(first)}
    other = sorted(baseline, key=lambda row: order[row.problem])
    return paired_difference(correct_matrix(rows), correct_matrix(other))


def table(scores: Mapping[str, BenchmarkScore]) -> str:
    """Format scores by title as a Markdown table, in percent, with a macro average."""
    head = (
        "benchmark",
        "Average@k",
        "95 % interval",
        "SE problems",
        "SE sampling",
        "k",
        "Pass@k",
        "Maj@k",
        "no answer",
        "truncated",
        "time-outs",
        "errors",
        "tokens",
        "seconds",
        "problems",
    )
    lines: list[tuple[str, ...]] = [head]
    for name, s in scores.items():
        shares = (s.pass_at_k, s.majority_at_k, s.no_answer, s.truncated)
        lines.append(
            (
                name,
                *_estimate(s.average),
                _percent(s.sampling_error),
                str(s.samples),
                *map(_percent, (*shares, s.timeouts, s.errors)),
                _number(s.mean_tokens),
                _number(s.seconds),
                f"{s.average.problems:,}",
            )
        )
    if len(scores) > 1:
        macro = macro_average([s.average for s in scores.values()])
        blanks = ("",) * (len(head) - 5)
        lines.append(
            ("macro average", *_estimate(macro), *blanks, f"{macro.problems:,}")
        )
    return markdown(lines)


def scored_table(scores: Mapping[str, Mapping[str, Estimate]]) -> str:
    """Format the accuracies of scored options by title, in percent."""
    lines: list[tuple[str, ...]] = [
        ("benchmark", "metric", "value", "95 % interval", "SE problems", "problems")
    ]
    for title, metrics in scores.items():
        for name, estimate in metrics.items():
            count = f"{estimate.problems:,}"
            lines.append((title, name, *_estimate(estimate), count))
    return markdown(lines)


def visible(scores: Mapping[str, BenchmarkScore]) -> list[str]:
    """Lines with the smallest difference that each set can show."""
    lines = []
    for name, s in scores.items():
        # Of two independent models with this standard error; pairing lowers it.
        size = smallest_visible_difference(math.sqrt(2) * s.average.standard_error)
        if size > 0:
            lines.append(
                f"{name}: a difference to another model below {100 * size:.1f} points "
                "is not visible at 80 % power without pairing"
            )
    return lines


def difference_line(name: str, estimate: Estimate) -> str:
    """Line with a paired difference in points."""
    return (
        f"{name}: {100 * estimate.value:+.2f} points to the baseline, 95 % interval "
        f"{100 * estimate.low:+.2f} to {100 * estimate.high:+.2f}, paired on "
        f"{estimate.problems} problems"
    )


def _scored(rows: Sequence[Row]) -> dict[str, Estimate]:
    """Accuracies by metric of rows with log-probabilities of options."""
    choices = []
    for row in rows:
        if row.likelihood is None:
            return {}
        gold = LETTERS.index(row.gold)
        choices.append({k: n == gold for k, n in row.likelihood.choices().items()})
    return {
        name: average(np.asarray([[choice[name]] for choice in choices]))
        for name in choices[0]
    }


def _estimate(estimate: Estimate) -> tuple[str, str, str]:
    interval = f"{_percent(estimate.low)} to {_percent(estimate.high)}"
    return (
        _percent(estimate.value),
        "–" if math.isnan(estimate.low) else interval,
        _percent(estimate.standard_error),
    )


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
