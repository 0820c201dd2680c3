"""Print a shell completion script: `python -m targetsft_jax.completion bash`."""

from collections.abc import Sequence

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.command import leave, run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_completion, arguments)


def _completion(arguments: list[str]) -> None:
    from targetsft_jax.cli.completion import script

    print(script(parser().parse_args(arguments).shell), end="")


def parser() -> CommandParser:
    """Arguments of the command."""
    text = "Print a completion script: commands, keys and their values."
    examples = (
        'eval "$(targetsft completion bash)"   # in ~/.bashrc',
        'eval "$(targetsft completion zsh)"    # in ~/.zshrc, after compinit',
        "targetsft completion fish > ~/.config/fish/completions/targetsft.fish",
    )
    parser = CommandParser("completion", "bash | zsh | fish", text, examples)
    shells = ("bash", "zsh", "fish")
    parser.add_argument("shell", choices=shells, metavar="SHELL", help="its name")
    return parser


if __name__ == "__main__":
    leave(main())
