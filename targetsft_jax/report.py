"""Plot and tabulate runs: `python -m targetsft_jax.report RUN [RUN …]`."""

from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, output_file, run_command
from targetsft_jax.experiments.curves import draw
from targetsft_jax.experiments.runs import read_runs
from targetsft_jax.experiments.summary import summary_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_report, arguments)


def _report(arguments: list[str]) -> None:
    options = parser().parse_args(arguments)
    runs = read_runs(options.runs)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    draw(runs, options.out)
    print("\n".join(summary_table(runs)))
    print(f"\ncurves: {options.out}")


def parser() -> CommandParser:
    """Arguments of the command."""
    parser = CommandParser(
        "report",
        "RUN [RUN …] [--out FILE]",
        "Plot the metrics of runs in one figure and print a table of their newest "
        "values. Reads files only, so it may run during training.",
        examples=("targetsft report runs/quickstart runs/dft --out curves.png",),
    )
    text = "run directory, or a folder of run directories"
    parser.add_argument("runs", nargs="+", metavar="RUN", help=text)
    parser.add_argument(
        "--out",
        type=output_file,
        default=Path("curves.png"),
        metavar="FILE",
        help="PNG file to write (default: curves.png)",
    )
    return parser


if __name__ == "__main__":
    leave(main())
