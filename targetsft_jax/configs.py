"""List or copy the shipped configurations: `python -m targetsft_jax.configs`."""

from collections.abc import Sequence
from pathlib import Path

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, run_command
from targetsft_jax.config.shipped import names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_configs, arguments)


def _configs(arguments: list[str]) -> None:
    from targetsft_jax.cli import shipped

    options = parser().parse_args(arguments or ["ls"])
    if options.subcommand == "ls":
        print("\n".join(shipped.listing()))
        return
    file = shipped.copy(options.name, options.destination)
    command = "compare" if options.name.startswith("compare/") else "train"
    print(
        f"copied {options.name} to {file}; edit it, then targetsft {command} "
        f"--config {file}"
    )


def parser() -> CommandParser:
    """Arguments of the command and of its subcommands."""
    text = "List the shipped configurations, or copy one to edit it."
    examples = ("targetsft configs", "targetsft configs cp quickstart mine.yaml")
    parser = CommandParser("configs", "[ls | cp NAME [FILE]]", text, examples)
    parser.add_subcommand("ls", "", "List the shipped configurations (default).")
    text = "Copy a shipped configuration; nothing is overwritten."
    add = parser.add_subcommand("cp", "NAME [FILE]", text).add_argument
    add("name", metavar="NAME", choices=names(), help="name in the list")
    text = "file or folder to write (default: the current folder)"
    add("destination", metavar="FILE", nargs="?", type=Path, help=text)
    return parser


if __name__ == "__main__":
    leave(main())
