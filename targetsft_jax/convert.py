"""`python -m targetsft_jax.convert to-hf | to-peft | from-hf`: Hugging Face folders."""

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
    directions = parser.add_subparsers(
        required=True, metavar="to-hf | to-peft | from-hf"
    )
    commands = {}
    checkpoint = "a run directory (its newest checkpoint) or RUN/checkpoints/STEP"
    for direction, text, source in (
        ("to_hf", "export a checkpoint of a run as a Hugging Face folder", checkpoint),
        ("to_peft", "export the LoRA adapters of a run in PEFT's format", checkpoint),
        (
            "from_hf",
            "import a Hugging Face model as a run directory with one checkpoint, 0",
            "a Hugging Face folder or hub id",
        ),
    ):
        name = direction.replace("_", "-")
        command = directions.add_parser(name, help=text, description=text)
        command.set_defaults(direction=direction)
        command.add_argument("source", help=source)
        command.add_argument("out", type=Path, help="the folder to write")
        commands[direction] = command
    for direction in ("to_hf", "from_hf"):
        text = "stored dtype (default: unchanged)"
        commands[direction].add_argument("--dtype", choices=STORED_DTYPES, help=text)
    for direction in ("to_hf", "to_peft"):
        text = "step of the checkpoint (default: the newest)"
        commands[direction].add_argument("--step", type=int, help=text)
    add = commands["to_hf"].add_argument
    text = "largest safetensors file, such as 500MB (default: %(default)s)"
    add("--max-shard-size", type=file_size, default="5GB", metavar="SIZE", help=text)
    text = "config and tokenizer, if the run directory has no model/"
    add("--like", type=Path, metavar="FOLDER", help=text)
    add("--base", metavar="FOLDER", help="base model of LoRA adapters, if it was moved")
    text = "hub id or folder of the base that the adapters name (default: the run's)"
    commands["to_peft"].add_argument("--base", metavar="MODEL", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
