"""Progress of a mining with its remaining time, and its summary."""

import time
from collections import Counter
from collections.abc import Sequence

from targetsft_jax.data.records import Problem
from targetsft_jax.mining.answers import SKIPPED
from targetsft_jax.mining.known_characters import agreement, marked
from targetsft_jax.mining.mined_file import USED, MinedFile
from targetsft_jax.mining.session import Session

_SECONDS = 5.0
"""Seconds between lines of progress."""


class Progress:
    """Lines on standard output, at most one in five seconds.

    Args:
        problems: all problems.
        file: outcomes of earlier sessions.
    """

    def __init__(self, problems: Sequence[Problem], file: MinedFile):
        self._problems = problems
        self._start, self._printed = time.monotonic(), 0.0
        self._done = self._count(file)
        if self._done:
            print(f"{self._done:,} of {len(problems):,} problems are examined already")

    def show(self, file: MinedFile) -> None:
        """Print the share of examined problems, the rows, and the remaining time."""
        now = time.monotonic()
        done, total = self._count(file), len(self._problems)
        if now - self._printed < _SECONDS and done < total:
            return
        self._printed = now
        seconds = (now - self._start) / max(1, done - self._done) * (total - done)
        used, critical, tokens = _counts(file)
        percent = 100 * critical / max(1, tokens)
        print(
            f"{done:,} of {total:,} problems, {used:,} rows, {percent:.1f} % of"
            f" {tokens:,} tokens critical, ETA {_duration(seconds)}",
            flush=True,
        )

    def _count(self, file: MinedFile) -> int:
        return sum(problem.id in file.outcomes for problem in self._problems)


def summary(session: Session, file: MinedFile) -> list[str]:
    """Render the share of critical tokens, the rows, and the skipped problems.

    Generated problems are also compared with their computed characters, and their first
    row is shown.
    """
    used, critical, tokens = _counts(file)
    percent = 100 * critical / max(1, tokens)
    lines = [
        f"critical tokens  {critical:,} of {tokens:,} response tokens"
        f" ({percent:.1f} %)",
        f"rows             {used:,} of {len(file.outcomes):,} problems",
    ]
    reasons = Counter(line["outcome"] for line in file.outcomes.values())
    lines += [
        f"  skipped {reasons[name]:,}: {text}"
        for name, text in SKIPPED.items()
        if reasons[name]
    ]
    if session.generated and used:
        rows = file.rows()
        lines += agreement(rows, session.tokenizer).lines()
        lines.append("first row, critical tokens between ⟦ and ⟧, ⏹ the stop token")
        text = marked(rows[0], session.tokenizer)
        lines += [f"  {line}" for line in text.split("\n")]
    return lines


def _counts(file: MinedFile) -> tuple[int, int, int]:
    """Rows, critical tokens, and response tokens."""
    used = [line for line in file.outcomes.values() if line["outcome"] == USED]
    critical = sum(line["critical"] for line in used)
    return len(used), critical, sum(line["tokens"] for line in used)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
