"""Compare methods: `python -m targetsft_jax.compare --config FILE`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import job_count, leave, run_command

_REPLACED = {"methods": "[sft, dft]", "seeds": "[0, 1]", "run_dir": "runs/mine"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(
        _compare,
        arguments,
        interrupted="interrupted; finished runs are kept, and the same command resumes",
    )


def _compare(arguments: list[str]) -> int:
    options, overrides = parser().parse_known_args(arguments)
    from targetsft_jax.experiments import compare, grid, jobs, report
    from targetsft_jax.experiments.declaration import read_comparison
    from targetsft_jax.parallel.launch import launch

    replacing = {k: getattr(options, k) for k in _REPLACED}
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


def parser() -> CommandParser:
    """Arguments of the command; all others are keys of the configuration."""
    usage = "--config FILE [--jobs N] [--KEY VALUE …]"
    text = "Train methods from the same start on the same batches; write tables and "
    text += "figures of their scores. Finished cells are kept."
    example = "targetsft compare --config compare/quickstart"
    examples = (f"{example} --dry-run", f"{example} --methods '[sft, dft]'")
    parser = CommandParser("compare", usage, text, examples, run_keys=True)
    add = parser.add_argument
    add("--config", required=True, metavar="FILE", help="YAML file or shipped name")
    for name, like in _REPLACED.items():
        add(f"--{name}", metavar="X", help=f"override of the file, such as '{like}'")
    add("--dry-run", action="store_true", help="list the cells, estimate the minutes")
    add("--jobs", type=job_count, default=1, metavar="N", help="processes at once (1)")
    add("--part", metavar="K/N", help="the K-th of N parts of the methods, no tables")
    return parser


if __name__ == "__main__":
    leave(main())
