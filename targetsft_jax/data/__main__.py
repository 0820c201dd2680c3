"""`python -m targetsft_jax.data list | build | preview`: data sets and their rows."""

import argparse
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 where it is done, 1 where it cannot be, 2 for bad usage."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["preview"]:
        # It takes every key of the train command.
        from targetsft_jax.preview import main as preview

        return preview(given[1:])
    own = _parser().parse_args(given)
    try:
        own.run(own)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; nothing was written\n")
        return 130
    return 0


def _list(own):
    from targetsft_jax.data.catalogue import CATALOGUE
    from targetsft_jax.data.catalogue.builder import stored

    for name, dataset in CATALOGUE.items():
        built = stored(name, own.data_dir)
        print(f"{name:<17} {dataset.about}")
        print(f"{'':<17} licence {dataset.licence}; {dataset.homepage}")
        if built is None:
            print(f"{'':<17} splits {', '.join(dataset.splits)}; not built")
        else:
            sizes = ", ".join(f"{split} {n:,}" for split, n in built.splits.items())
            print(f"{'':<17} built: {sizes}; in {built.folder}")


def _build(own):
    from targetsft_jax.data.catalogue.builder import build

    built = build(own.name, own.data_dir, own.manual_dir)
    for split, examples in built.splits.items():
        without = built.left_out.get(split)
        left_out = f", {without:,} rows left out by its rule" if without else ""
        print(f"{own.name}/{split}: {examples:,} examples{left_out}")
    print(f"from {built.origin}\nin {built.folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.data",
        description="The data sets that a run can name, making them ready, and what"
        " a run would train on.",
    )
    commands = parser.add_subparsers(required=True, metavar="list | build | preview")
    commands.add_parser(
        "preview", help="rows as the model will see them; --config FILE"
    )
    listing = commands.add_parser("list", help="what there is, and what is built")
    listing.set_defaults(run=_list)
    building = commands.add_parser(
        "build",
        help="a data set of the catalogue as ArrayRecord files",
        description="Read a data set's published files and write them as a "
        "TensorFlow Datasets folder of ArrayRecord files, whole or not at all.",
    )
    building.add_argument("name", help="one of those that `list` shows")
    building.add_argument(
        "--manual_dir",
        metavar="FOLDER",
        help="where its files lie; without it they are downloaded from the hub",
    )
    building.set_defaults(run=_build)
    for command in (listing, building):
        command.add_argument(
            "--data_dir",
            metavar="DIR",
            help="where built sets lie (~/.cache/targetsft_jax/datasets)",
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
