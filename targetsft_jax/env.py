"""Print the environment for a bug report: `python -m targetsft_jax.env`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, positive_number, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_env, arguments)


def _env(arguments: list[str]) -> None:
    from targetsft_jax.cli.environment import report

    print("\n".join(report(parser().parse_args(arguments).seconds)))


def parser() -> CommandParser:
    """Arguments of the command."""
    text = "Print versions, platform and devices, to paste into a bug report."
    parser = CommandParser("env", "[--seconds S]", text)
    text = "time after which accelerators count as unresponsive (60)"
    add = parser.add_argument
    add("--seconds", type=positive_number, default=60.0, metavar="S", help=text)
    return parser


if __name__ == "__main__":
    leave(main())
