"""What a run says while it trains: lines, and on a terminal a bar under them."""

import sys
from collections.abc import Mapping
from typing import Any

# Printed name, metric, format. A metric that a method does not have is left out.
_LINE = (
    ("loss", "loss", "{:.4f}"),
    ("nll", "nll", "{:.4f}"),
    ("γ", "gamma", "{:.3f}"),
    ("A", "strength", "{:.3f}"),
    ("neg", "negative_mass", "{:.1e}"),
    ("H", "entropy", "{:.3f}"),
    ("KL_T", "kl_teacher", "{:.3f}"),
    ("KL_ref", "kl_reference", "{:.3f}"),
    ("|g|", "grad_norm", "{:.3f}"),
    ("val", "validation_loss", "{:.4f}"),
    ("val nll", "validation_nll", "{:.4f}"),
)

LEGEND = (
    "γ: mean trust in the label · A: strength a + b · neg: negative mass of Q · "
    "H: student entropy (nats) · KL_T: KL(teacher ‖ student) · |g|: gradient norm · "
    "good: share of the wall time that went into steps"
)


class Progress:
    """Lines on standard output; on a terminal, a bar with the time left.

    Args:
        steps: of the whole run.
        start: steps done before.
        terminal: whether to draw the bar; as standard output is, unless given.
    """

    def __init__(self, *, steps: int, start: int, terminal: bool | None = None):
        self._steps = steps
        self._bar: Any = None
        if sys.stdout.isatty() if terminal is None else terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            self._bar = Progress(
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[said]}"),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
            )
            self._task = self._bar.add_task("", total=steps, completed=start, said="")
            self._bar.start()

    def say(self, text: str) -> None:
        """A line of text."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def advance(self, row: Mapping[str, float], *, goodput: float) -> None:
        """A step is done."""
        if self._bar is not None:
            said = f"{_pace(row)}  good {goodput:.0%}"
            self._bar.update(self._task, completed=row["step"], said=said)

    def line(
        self, row: Mapping[str, float], *, goodput: float, left: float | None
    ) -> None:
        """Say a step's numbers.

        Args:
            row: its metrics.
            goodput: share of the wall time in steps.
            left: seconds to the end, or None while nothing is known of the pace.
        """
        parts = [
            f"{name} {template.format(row[key])}"
            for name, key, template in _LINE
            if key in row
        ]
        eta = "–" if left is None else f"{int(left) // 60}:{int(left) % 60:02d}"
        self.say(
            f"step {int(row['step']):>{len(str(self._steps))}}/{self._steps}  "
            + "  ".join(parts)
            + f"  {_pace(row)}  good {goodput:.0%}  ETA {eta}"
        )

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()


def _pace(row: Mapping[str, float]) -> str:
    return f"{row['tokens_per_second'] / 1000:.1f}k tok/s"
