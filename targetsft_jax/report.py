"""`python -m targetsft_jax.report RUN [RUN …]`: the curves of runs as a picture."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.experiments.curves import draw
from targetsft_jax.experiments.runs import Run, read_runs

# Heading, metric, format.
_TABLE = (
    ("step", "step", "{:,.0f}"),
    ("loss", "loss", "{:.4f}"),
    ("nll", "nll", "{:.4f}"),
    ("val loss", "validation_loss", "{:.4f}"),
    ("val nll", "validation_nll", "{:.4f}"),
    ("γ", "gamma", "{:.3f}"),
    ("tok/s", "tokens_per_second", "{:,.0f}"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.report",
        description="Draw the curves of one or several runs, and print where they are.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run directory")
    parser.add_argument(
        "--out", type=Path, default=Path("curves.png"), help="the PNG (curves.png)"
    )
    given = parser.parse_args(arguments)
    try:
        runs = read_runs(given.runs)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        draw(runs, given.out)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    print("\n".join(_table(runs)))
    print(f"\ncurves in {given.out}")
    return 0


def _table(runs: list[Run]) -> list[str]:
    """Newest values of each run, a run a line."""
    kept = [c for c in _TABLE if any(run.last(c[1]) is not None for run in runs)]
    lines = [["run", *(heading for heading, _, _ in kept), "skipped", "goodput"]]
    for run in runs:
        values = [(run.last(metric), template) for _, metric, template in kept]
        total = sum(run.seconds.values())
        lines.append(
            [
                run.name,
                *("–" if v is None else template.format(v) for v, template in values),
                str(sum(bool(row.get("skipped")) for row in run.rows)),
                f"{run.seconds['steps'] / total:.0%}" if total else "–",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join(
            cell.ljust(w) if place == 0 else cell.rjust(w)
            for place, (cell, w) in enumerate(zip(line, widths))
        )
        for line in lines
    ]


if __name__ == "__main__":
    sys.exit(main())
