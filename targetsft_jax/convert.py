"""`python -m targetsft_jax.convert to-hf | to-peft | from-hf`: Hugging Face folders."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    return run_command(_convert, arguments)


def _convert(arguments: list[str]) -> None:
    options = vars(parser().parse_args(arguments))
    import jax

    # A running training may hold the accelerators.
    jax.config.update("jax_platforms", "cpu")
    from targetsft_jax.checkpoints import convert
    from targetsft_jax.checkpoints.remote import export_folder

    out = options["out"]
    direction = options.pop("subcommand").replace("-", "_")
    with export_folder(out) as folder:
        message = getattr(convert, direction)(**options | {"out": folder})
    print(message.replace(str(folder), out))


def parser() -> CommandParser:
    """Arguments of the command and of its subcommands."""
    from targetsft_jax.cli.conversions import conversion_parser

    return conversion_parser()


if __name__ == "__main__":
    leave(main())
