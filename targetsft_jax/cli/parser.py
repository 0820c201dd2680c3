"""Argument parser of commands: usage in one line, examples, topics of `--help`."""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn, cast

from targetsft_jax.config.help import WIDTH, topic_help
from targetsft_jax.config.schema import Config, ConfigError

_TOPICS = (
    "`--help TOPIC` prints a section, such as `--help data`, and `targetsft train "
    "--help` lists them."
)


class CommandParser(argparse.ArgumentParser):
    """Parser of `targetsft NAME …`.

    `--data-dir` and `--data_dir` are the same flag, since keys have underscores.

    Args:
        command: name, with its subcommand: "plan", "convert to-hf".
        arguments: usage behind the name, such as "RUN [RUN …] [--out FILE]".
        about: one or two sentences.
        examples: command lines, at most three.
        run_keys: the command takes the keys of a run, too; `--help TOPIC` prints the
            help of a section.
        epilog: text at the end.

    Raises:
        SystemExit: with code 2, for invalid arguments.
    """

    def __init__(
        self,
        command: str,
        arguments: str,
        about: str,
        examples: Sequence[str] = (),
        *,
        run_keys: bool = False,
        epilog: str = "",
    ):
        about = "\n".join(textwrap.wrap(about, WIDTH))
        if examples:
            about += "\n\nexamples:\n" + "\n".join(f"  {each}" for each in examples)
        if run_keys:
            epilog = f"{epilog} Other keys are those of a run: {_TOPICS}"
        super().__init__(
            prog=f"targetsft {command}",
            usage=f"targetsft {command} {arguments}".rstrip(),
            description=about,
            epilog="\n".join(textwrap.wrap(epilog.strip(), WIDTH)),
            formatter_class=_Format,
            allow_abbrev=False,
            add_help=False,
        )
        self.run_keys = run_keys
        self._command = command
        self._subcommands: Any = None
        self.add_argument(
            "-h",
            "--help",
            action=_Help,
            metavar="TOPIC" if run_keys else None,
            help="print this text" + ", or the keys of a topic" * run_keys,
        )

    def add_subcommand(
        self, name: str, arguments: str, about: str, *, run_keys: bool = False
    ) -> "CommandParser":
        """Add a subcommand; its name is the attribute `subcommand` of the result."""
        if self._subcommands is None:
            self._subcommands = self.add_subparsers(
                title="subcommands",
                metavar="NAME",
                required=True,
                dest="subcommand",
                parser_class=cast(Any, _subparser),
            )
        command = f"{self._command} {name}"
        text = about[0].lower() + about[1:].partition(".")[0]
        return self._subcommands.add_parser(
            name,
            help=text,
            command=command,
            arguments=arguments,
            about=about,
            run_keys=run_keys,
        )

    def subparsers(self) -> dict[str, "CommandParser"]:
        """Return the parsers of the subcommands by name."""
        return dict(self._subcommands.choices) if self._subcommands else {}

    def options(self) -> list[argparse.Action]:
        """Return the declared flags and positional arguments, subcommands excluded."""
        return [each for each in self._actions if each is not self._subcommands]

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Parse arguments; flags may have underscores or hyphens."""
        given = None if args is None else [self._spelling(text) for text in args]
        return super().parse_known_args(given, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line, and exit with code 2."""
        wrong = re.search(r"invalid choice: '([^']+)' \(choose from (.*)\)", message)
        if wrong is not None:
            choices = [text.strip("' ") for text in wrong[2].split(",")]
            similar = difflib.get_close_matches(wrong[1], choices, 1)
            message += f". Did you mean {similar[0]}?" if similar else ""
        self.exit(2, f"usage: {self.usage}\n{self.prog}: {message}\n")

    def _spelling(self, text: str) -> str:
        """Text with its flag in the declared spelling."""
        flag, equals, value = text.partition("=")
        if not flag.startswith("--") or flag in self._option_string_actions:
            return text
        for other in (flag.replace("_", "-"), "--" + flag[2:].replace("-", "_")):
            if other in self._option_string_actions:
                return other + equals + value
        return text


def _subparser(prog: str, **options: Any) -> CommandParser:
    """Make the parser of a subcommand; argparse passes its own program name."""
    return CommandParser(**options)


class _Format(argparse.RawDescriptionHelpFormatter):
    """Help of 88 columns, whatever the terminal."""

    def __init__(self, prog: str):
        super().__init__(prog, width=WIDTH, max_help_position=26)


class _Help(argparse.Action):
    """Print the help of the command or of a topic, and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any):
        topical = options.get("metavar") is not None
        super().__init__(
            option_strings,
            argparse.SUPPRESS,
            nargs="?" if topical else 0,
            default=argparse.SUPPRESS,
            **options,
        )

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, CommandParser)
        if not values:
            parser.print_help()
            parser.exit()
        try:
            text = topic_help(Config, values)
        except ConfigError as error:
            parser.error(str(error))
        sys.stdout.write(text)
        parser.exit()
