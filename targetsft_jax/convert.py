"""`python -m targetsft_jax.convert to-hf | from-hf`: runs to and from Hugging Face."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.command import file_size, leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_convert, arguments)


def _convert(arguments: list[str]) -> None:
    options = vars(_parser().parse_args(arguments))
    import jax

    # A running training may hold the accelerators.
    jax.config.update("jax_platforms", "cpu")
    from targetsft_jax.checkpoints import convert

    print(getattr(convert, options.pop("direction"))(**options))


def _parser() -> argparse.ArgumentParser:
    from targetsft_jax.hf.exporter import STORED_DTYPES

    parser = argparse.ArgumentParser(
        prog="python -m targetsft_jax.convert",
        description="Convert between checkpoints of a run and Hugging Face folders, on "
        "the CPU. It can run during the training.",
    )
    directions = parser.add_subparsers(required=True, metavar="to-hf | from-hf")
    text = "export a checkpoint of a run as a Hugging Face folder"
    export = directions.add_parser("to-hf", help=text, description=text)
    text = "a run directory (its newest checkpoint) or RUN/checkpoints/STEP"
    export.add_argument("source", help=text)
    text = "import a Hugging Face model as a run directory with one checkpoint, 0"
    back = directions.add_parser("from-hf", help=text, description=text)
    back.add_argument("source", help="a Hugging Face folder or hub id")
    for each, direction in ((export, "to_hf"), (back, "from_hf")):
        each.set_defaults(direction=direction)
        each.add_argument("out", type=Path, help="the folder to write")
        text = "stored dtype (default: unchanged)"
        each.add_argument("--dtype", choices=STORED_DTYPES, help=text)
    add = export.add_argument
    add("--step", type=int, help="step of the checkpoint (default: the newest)")
    text = "largest safetensors file, such as 500MB (default: %(default)s)"
    add("--max-shard-size", type=file_size, default="5GB", metavar="SIZE", help=text)
    text = "config and tokenizer, if the run directory has no model/"
    add("--like", type=Path, metavar="FOLDER", help=text)
    add("--base", metavar="FOLDER", help="base model of LoRA adapters, if it was moved")
    return parser


if __name__ == "__main__":
    leave(main())
