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

    prog, about = "python -m targetsft_jax.convert", "Convert models, on the CPU."
    parser = argparse.ArgumentParser(prog=prog, description=about)
    directions = parser.add_subparsers(required=True)

    def direction(name: str, about: str, source: str) -> argparse.ArgumentParser:
        command = directions.add_parser(name, help=about, description=about)
        command.set_defaults(direction=name.replace("-", "_"))
        command.add_argument("source", help=source)
        command.add_argument("out", type=Path, help="the folder to write")
        return command

    stored = "a run directory (newest checkpoint) or RUN/checkpoints/STEP"
    hf = direction("to-hf", "export a checkpoint as a Hugging Face folder", stored)
    peft = direction("to-peft", "export LoRA adapters in PEFT's format", stored)
    text = "import a Hugging Face model as checkpoint 0 of a new run directory"
    back = direction("from-hf", text, "a Hugging Face folder or hub id")
    step, dtype = "of the checkpoint (default: the newest)", "default: unchanged"
    base = "base model of LoRA adapters, if not the path or hub id of the training"
    for each in (hf, back):
        each.add_argument("--dtype", choices=STORED_DTYPES, help=dtype)
    for each in (hf, peft):
        each.add_argument("--step", type=int, help=step)
        each.add_argument("--base", metavar="MODEL", help=base)
    add, text = hf.add_argument, "config and tokenizer, if the run has no model/"
    add("--like", type=Path, metavar="FOLDER", help=text)
    add("--max-shard-size", type=file_size, default="5GB", metavar="SIZE")
    return parser


if __name__ == "__main__":
    leave(main())
