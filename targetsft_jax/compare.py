"""`python -m targetsft_jax.compare --config FILE`: methods side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(
        _compare,
        arguments,
        interrupted="interrupted; rerun the same command to resume",
    )


def _compare(arguments: list[str]) -> int:
    import yaml

    own, overrides = _parser().parse_known_args(arguments)
    from targetsft_jax.config.shipped import find
    from targetsft_jax.experiments.compare import compare, tables
    from targetsft_jax.experiments.grid import cells, read_comparison
    from targetsft_jax.parallel.launch import launch
    from targetsft_jax.parallel.preemption import Preempted
    from targetsft_jax.train import launch_options

    options = {k: getattr(own, k) for k in ("methods", "seeds", "run_dir")}
    settings = {k: yaml.safe_load(v) for k, v in options.items() if v is not None}
    grid = cells(read_comparison(Path(find(own.config)), settings), overrides)
    if own.dry_run:
        for cell in grid:
            print(f"{cell.name:<24} seed {cell.seed}  {cell.config.run_dir}")
        return 0

    def action() -> None:
        try:
            scores = compare(grid)
        except Preempted as stop:
            print(f"{stop}; rerun the same command to resume")
        else:
            print("\n" + "\n".join(tables(grid, scores)))

    return launch(action, **launch_options(grid[0].config.mesh))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.compare",
        description="Train several methods from the same start on the same batches and "
        "print their scores side by side. Finished cells are not repeated.",
        epilog="Every other key is one of python -m targetsft_jax.train and changes "
        "the base configuration of all cells.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", required=True, help="YAML: base, run_dir, methods, seeds"
    )
    parser.add_argument("--methods", help="replaces the file's: '[sft, dft]'")
    parser.add_argument("--seeds", help="replaces the file's: '[0, 1]'")
    parser.add_argument("--run_dir", help="replaces the file's")
    parser.add_argument("--dry-run", action="store_true", help="list the cells only")
    return parser


if __name__ == "__main__":
    sys.exit(main())
