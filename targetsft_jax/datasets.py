"""`python -m targetsft_jax.datasets list | build | preview`: the data of trainings."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from targetsft_jax.command import run_command

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from targetsft_jax.config.schema import RoleConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(_run, arguments)


def _run(arguments: list[str]) -> None:
    from targetsft_jax.data.catalogue import builder, listing

    options, rest = _parser().parse_known_args(arguments)
    if options.command == "preview":
        _preview(options.rows, rest)
        return
    if rest:
        _parser().error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "list":
        lines = listing.list_catalogue(options.data_dir)
    else:
        built = builder.build(options.name, options.data_dir, options.manual_dir)
        lines = listing.describe_build(options.name, built)
    for line in lines:
        print(line)


def _preview(rows: int, arguments: list[str]) -> None:
    from targetsft_jax.config.schema import load
    from targetsft_jax.data.chat_templates import with_template
    from targetsft_jax.data.preview import print_preview
    from targetsft_jax.data.records import problems

    config = load(arguments)
    data, number = config.evaluation.data, config.evaluation.problems
    measured = data is not None or number > 0
    print_preview(
        config.data,
        with_template(_tokenizer(config.student), config.data.chat_template),
        problems(data or config.data, "heldout", number or None) if measured else None,
        cache_dir=config.cache_dir,
        held_out=config.validation.examples,
        rows=rows,
        seed=config.seed,
    )


def _tokenizer(student: "RoleConfig") -> "PreTrainedTokenizerBase":
    from targetsft_jax.checkpoints.reader import (
        MODEL_FOLDER,
        find_checkpoint,
        is_run_path,
    )
    from targetsft_jax.data.tokenizer import byte_tokenizer, load_tokenizer
    from targetsft_jax.hf.importer import resolve

    if not student.path:
        return byte_tokenizer()  # Of a start model that is built.
    folder = resolve(student.path, weights=False)
    if is_run_path(folder):
        folder = find_checkpoint(folder).run_dir / MODEL_FOLDER
    return load_tokenizer(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.datasets",
        description="List and build the data sets of the catalogue, and preview the"
        " rows of a training.",
    )
    commands = parser.add_subparsers(required=True, dest="command")
    listing = commands.add_parser("list", help="the catalogue, and what is built")
    building = commands.add_parser(
        "build",
        help="write a data set of the catalogue as ArrayRecord files",
        description="Read the published files of a data set and write them as a"
        " TensorFlow Datasets folder of ArrayRecord files, atomically.",
    )
    building.add_argument("name", help="name in the catalogue, as `list` prints it")
    building.add_argument(
        "--manual-dir",
        metavar="FOLDER",
        help="folder of the published files; without it they are downloaded",
    )
    for command in (listing, building):
        command.add_argument(
            "--data-dir",
            metavar="FOLDER",
            help="folder of built data sets (~/.cache/targetsft_jax/datasets)",
        )
    preview = commands.add_parser(
        "preview",
        help="show packed rows as text; --config FILE",
        allow_abbrev=False,
        description="Print packed rows as text, with trained tokens between ⟦ and ⟧,"
        " and the counts of the data. Takes all keys of the train command; reads no"
        " weights.",
    )
    preview.add_argument("--rows", type=int, default=3, help="number of rows (3)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
