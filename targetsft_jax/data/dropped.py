"""Share of the rows that are skipped, dropped or truncated: warned about, refused."""

import numpy as np

from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.report import DataReport
from targetsft_jax.data.token_limit import stored_tokens

WARN_ABOVE = 0.05
"""Share of the rows above which the report has a warning."""
_HELD = 0.95  # Share of the examples in the advice on data.max_length.


def check_dropped(
    config: DataConfig,
    report: DataReport,
    lengths: np.ndarray | None = None,
    teacher_row_length: int | None = None,
) -> None:
    """Warn in the report if many rows are dropped or truncated, and refuse too many.

    Args:
        config: the data section.
        report: with the counts of all rows; its `warning` is set.
        lengths: [N] int, tokens of each example; None if nothing is truncated.
        teacher_row_length: tokens per row of a teacher with rows of its own.

    Raises:
        ValueError: the share is above `max_dropped`; names the counts and the keys.
    """
    read = report.rows - report.filtered
    dropped = report.bad + sum(report.dropped.values()) + report.truncated
    if dropped <= WARN_ABOVE * read:
        return
    counts = {"skipped as bad": report.bad, "truncated": report.truncated}
    counts |= {f"dropped ({reason})": n for reason, n in report.dropped.items()}
    parts = ", ".join(f"{n:,} {name}" for name, n in counts.items() if n)
    share = f"{dropped:,} of {read:,} rows ({dropped / read:.1%})"
    problem = f"{share} are not used in full: {parts}"
    remedy = _remedy(config, report, lengths)
    if teacher_row_length and 2 * report.beyond_teacher > dropped:
        remedy = f"Raise teacher.max_length from {teacher_row_length:,}"
    listed = f":\n{report}" if report.bad_rows else ""
    if dropped > config.max_dropped * read:
        raise ValueError(
            f"{problem}; expected at most {config.max_dropped:.0%}. {remedy}, or set"
            f" data.max_dropped to 1 to use what is left{listed}"
        )
    report.warning = f"{problem}. {remedy}"


def _remedy(config: DataConfig, report: DataReport, lengths: np.ndarray | None) -> str:
    if lengths is None or report.bad > report.truncated + sum(report.dropped.values()):
        return "Repair the bad rows"
    enough = int(np.quantile(lengths, _HELD, method="higher"))
    stored = stored_tokens(config.max_length)
    least = f"at least {stored:,}" if enough >= stored else f"{enough:,}"
    advice = f"{least} for {_HELD:.0%} of the examples"
    return f"Raise data.max_length from {config.max_length:,} ({advice})"
