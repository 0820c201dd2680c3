"""`python -m targetsft_jax.datasets list | build | preview`: the data of trainings."""

import argparse
import sys
from collections.abc import Sequence

from targetsft_jax.command import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, arguments)


def _run(arguments: list[str]) -> None:
    from targetsft_jax.data.catalogue import listing

    options, rest = _parser().parse_known_args(arguments)
    if options.command == "preview":
        _preview(options.rows, rest)
    elif rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    elif options.command == "list":
        print(*listing.list_catalogue(options.data_dir), sep="\n")
    else:
        folders = options.data_dir, options.manual_dir
        print(*listing.build_dataset(options.name, *folders), sep="\n")


def _preview(rows: int, arguments: list[str]) -> None:
    from targetsft_jax.checkpoints.open import open_model
    from targetsft_jax.config.schema import load
    from targetsft_jax.data.preview import print_preview
    from targetsft_jax.data.records import problems
    from targetsft_jax.data.tokenizer import byte_tokenizer

    config = load(arguments)
    student, data = config.student.path, config.evaluation.data
    n = config.evaluation.problems or None
    print_preview(
        config.data,
        open_model(student, weights=False).tokenizer() if student else byte_tokenizer(),
        problems(data or config.data, "heldout", n) if n or data else None,
        cache_dir=config.cache_dir,
        held_out=config.validation.examples,
        rows=rows,
        seed=config.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m targetsft_jax.datasets")
    commands = parser.add_subparsers(required=True, dest="command")
    listing = commands.add_parser("list", help="list the catalogue and what is built")
    building = commands.add_parser(
        "build", help="write a data set as ArrayRecord files"
    )
    building.add_argument("name", help="name in the catalogue")
    folder = "folder of the published files; without it they are downloaded"
    building.add_argument("--manual-dir", metavar="FOLDER", help=folder)
    folder = "folder of built data sets (~/.cache/targetsft_jax/datasets)"
    for command in (listing, building):
        command.add_argument("--data-dir", metavar="FOLDER", help=folder)
    text = "show packed rows as text, and counts; takes all keys of the train command"
    preview = commands.add_parser("preview", help=text, allow_abbrev=False)
    preview.add_argument("--rows", type=int, default=3, help="number of rows (3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
