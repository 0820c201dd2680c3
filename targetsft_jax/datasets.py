"""`python -m targetsft_jax.datasets list | build | preview`: the data set catalogue."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, row_count, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, arguments)


def _run(arguments: list[str]) -> None:
    from targetsft_jax.cli.preview import preview_run
    from targetsft_jax.data.catalogue import listing

    args, keys = parser().parse_known_args(arguments)
    if args.subcommand == "preview":
        return preview_run(keys, args.rows)
    args = parser().parse_args(arguments)  # Without keys of a run.
    lines = listing.list_catalogue(args.data_dir)
    if args.subcommand == "build":
        lines = listing.build_dataset(args.name, args.data_dir, args.manual_dir)
    print(*lines, sep="\n")


def parser() -> CommandParser:
    """Arguments of the command and of its subcommands."""
    text = "List and build catalogued data sets; preview the rows of a run."
    examples = ("targetsft datasets preview --config quickstart --rows 2",)
    parser = CommandParser("datasets", "list | build | preview …", text, examples)
    text = "Print packed rows as text, duplicates and overlap with the evaluation."
    usage = "--config FILE [--rows N] [--KEY VALUE …]"
    add = parser.add_subcommand("preview", usage, text, run_keys=True).add_argument
    add("--rows", type=row_count, default=3, metavar="N", help="number of rows (3)")
    text = "Write a data set as ArrayRecord files."
    build = parser.add_subcommand("build", "NAME [--manual-dir DIR]", text)
    build.add_argument("name", metavar="NAME", help="name in the catalogue")
    build.add_argument("--manual-dir", metavar="DIR", help="published files")
    text = "List the catalogue and its builds."
    for each in (build, parser.add_subcommand("list", "[--data-dir DIR]", text)):
        each.add_argument("--data-dir", metavar="DIR", help="folder of built data sets")
    return parser


if __name__ == "__main__":
    leave(main())
