"""Command line `targetsft COMMAND …`: dispatch to the modules of the commands."""

import argparse
import difflib
import importlib
import sys
from collections.abc import Sequence

from targetsft_jax import __version__
from targetsft_jax.command import leave
from targetsft_jax.commands import COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command of the first argument and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = _parser()
    first = next(iter(arguments), "-")
    if first not in COMMANDS and not first.startswith("-"):
        similar = difflib.get_close_matches(first, COMMANDS, 1)
        hint = f"; did you mean {similar[0]}?" if similar else ""
        parser.error(f"{first!r} is not a command{hint}")
    name = parser.parse_args(arguments[:1]).command
    if name is None:
        parser.print_help()
        return 0
    module = importlib.import_module(f"targetsft_jax.{name}")
    return module.main(arguments[1:])


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="targetsft",
        usage="targetsft COMMAND [ARGUMENT …]",
        description="commands:\n"
        + "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()),
        epilog="`targetsft COMMAND --help` lists a command's arguments;\n"
        "`python -m targetsft_jax.COMMAND` is the same command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=COMMANDS,
        metavar="COMMAND",
        help=argparse.SUPPRESS,
    )
    version = f"targetsft-jax {__version__}"
    parser.add_argument("--version", action="version", version=version)
    return parser


if __name__ == "__main__":
    leave(main())
