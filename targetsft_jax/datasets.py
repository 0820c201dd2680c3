"""`python -m targetsft_jax.datasets list | build | preview`: the data set catalogue."""

import argparse
from collections.abc import Sequence

from targetsft_jax.command import leave, row_count, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_run, arguments)


def _run(arguments: list[str]) -> None:
    from targetsft_jax.data.catalogue import listing

    args, keys = _parser().parse_known_args(arguments)
    if args.command == "preview":
        return _preview(args.rows, keys)
    args = _parser().parse_args(arguments)  # Without configuration keys.
    lines = listing.list_catalogue(args.data_dir)
    if args.command == "build":
        lines = listing.build_dataset(args.name, args.data_dir, args.manual_dir)
    print(*lines, sep="\n")


def _preview(rows: int, keys: list[str]) -> None:
    from targetsft_jax.checkpoints.open import open_tokenizer
    from targetsft_jax.config.load import load
    from targetsft_jax.data import preview, records

    config = load(keys)
    data, n = config.evaluation.data, config.evaluation.problems or None
    preview.print_preview(
        config.data,
        open_tokenizer(config.student.path),
        records.problems(data or config.data, n=n) if n or data else None,
        cache_dir=config.cache_dir,
        held_out=config.validation.examples,
        rows=rows,
        seed=config.seed,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m targetsft_jax.datasets")
    add = parser.add_subparsers(required=True, dest="command").add_parser
    preview = add("preview", help="show rows of a run, by its keys", allow_abbrev=False)
    preview.add_argument("--rows", type=row_count, default=3, help="number of rows (3)")
    build = add("build", help="write a data set as ArrayRecord files")
    build.add_argument("name", help="name in the catalogue")
    build.add_argument("--manual-dir", metavar="DIR", help="published files")
    for each in (build, add("list", help="list the catalogue and its builds")):
        each.add_argument("--data-dir", metavar="DIR", help="folder of built data sets")
    return parser


if __name__ == "__main__":
    leave(main())
