"""Compare methods: `python -m targetsft_jax.compare --config FILE`."""

import argparse
import sys
from collections.abc import Sequence

from targetsft_jax.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        _compare,
        arguments,
        interrupted="interrupted; finished runs are kept, and the same command resumes",
    )


def _compare(arguments: list[str]) -> int:
    options, overrides = _parser().parse_known_args(arguments)
    from targetsft_jax.experiments.compare import print_cells, run_cells
    from targetsft_jax.experiments.grid import cells, read_comparison
    from targetsft_jax.parallel.launch import launch

    replacing = {k: getattr(options, k) for k in ("methods", "seeds", "run_dir")}
    grid = cells(read_comparison(options.config, replacing), overrides)
    if options.dry_run:
        return print_cells(grid)
    mesh = grid[0].config.mesh
    return launch(lambda: run_cells(grid), **mesh.processes_of_run())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.compare",
        description="Train several methods from the same start on the same batches and "
        "print their scores side by side. Finished cells are not repeated.",
        epilog="Other keys are those of python -m targetsft_jax.train and override the "
        "base configuration of all cells.",
        allow_abbrev=False,
    )
    text = "YAML file with base, run_dir, methods and seeds, or a shipped name"
    parser.add_argument("--config", required=True, help=text)
    parser.add_argument("--methods", help="override, such as '[sft, dft]'")
    parser.add_argument("--seeds", help="override, such as '[0, 1]'")
    parser.add_argument("--run_dir", help="override")
    parser.add_argument("--dry-run", action="store_true", help="only list the cells")
    return parser


if __name__ == "__main__":
    sys.exit(main())
