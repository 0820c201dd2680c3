"""Plot and tabulate runs: `python -m targetsft_jax.report RUN [RUN …]`."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.command import leave, output_file, run_command
from targetsft_jax.experiments.curves import draw
from targetsft_jax.experiments.runs import read_runs
from targetsft_jax.experiments.summary import summary_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_report, arguments)


def _report(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.report",
        description="Plot the metrics of runs in one figure and print a table of their "
        "newest values. Reads files only, so it may run during training.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directory, or a folder of run directories",
    )
    parser.add_argument(
        "--out",
        type=output_file,
        default=Path("curves.png"),
        help="PNG file to write (default: curves.png)",
    )
    options = parser.parse_args(arguments)
    runs = read_runs(options.runs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, options.out)
    print("\n".join(summary_table(runs)))
    print(f"\ncurves: {options.out}")


if __name__ == "__main__":
    leave(main())
