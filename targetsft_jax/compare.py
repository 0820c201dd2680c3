"""Compare methods: `python -m targetsft_jax.compare --config FILE`."""

import argparse
from collections.abc import Sequence

from targetsft_jax.command import job_count, leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        _compare,
        arguments,
        interrupted="interrupted; finished runs are kept, and the same command resumes",
    )


def _compare(arguments: list[str]) -> int:
    options, overrides = _parser().parse_known_args(arguments)
    from targetsft_jax.experiments import compare, grid, jobs, report
    from targetsft_jax.experiments.declaration import read_comparison
    from targetsft_jax.parallel.launch import launch

    replacing = {k: getattr(options, k) for k in ("methods", "seeds", "run_dir")}
    comparison = read_comparison(options.config, replacing)
    entries = grid.entries(comparison, overrides)
    if options.dry_run:
        return compare.print_cells(entries, options.jobs)
    if options.jobs > 1 and not options.part:
        code = jobs.run_jobs(arguments, options.jobs)
    else:
        part = jobs.part_of(entries, options.part)
        mesh = entries[0].config.mesh.processes_of_run()
        code = launch(lambda: compare.run_entries(part), **mesh)
    return code if options.part else report.write(comparison, entries) or code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.compare",
        description="Train several methods from the same start on the same batches "
        "and write tables and figures of their scores. Finished cells are kept.",
        epilog="Other keys are those of python -m targetsft_jax.train, for all cells.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="YAML file or shipped name")
    parser.add_argument("--methods", help="override, such as '[sft, dft]'")
    parser.add_argument("--seeds", help="override, such as '[0, 1]'")
    parser.add_argument("--run_dir", help="override")
    text = "list the cells and estimate the minutes"
    parser.add_argument("--dry-run", action="store_true", help=text)
    text = "processes at once, each on its share of the cores (1)"
    parser.add_argument("--jobs", type=job_count, default=1, metavar="N", help=text)
    text = "run the K-th of N parts of the methods, without tables: one per machine"
    parser.add_argument("--part", metavar="K/N", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
