"""Completion scripts of shells: commands, sections, keys and their values.

A script is static, so that a press of the tabulator starts no Python. Everything
in it follows from the parsers of the commands and the declarations of the keys.
"""

import argparse
import dataclasses
import importlib
import shlex
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.commands import COMMANDS
from targetsft_jax.config.help import ALL, GENERAL, TRAIN, Page
from targetsft_jax.config.schema import Config
from targetsft_jax.config.shipped import names
from targetsft_jax.config.tree import nested_section
from targetsft_jax.evaluation.settings import HELP as EVALUATE

PAGES: Mapping[str, Page] = {"train": TRAIN, "evaluate": EVALUATE}
"""Commands whose arguments are the keys of a section."""


@dataclass(frozen=True)
class Word:
    """A flag or a subcommand.

    Attributes:
        name: `--train.steps`, `to-hf`.
        help: one sentence.
        values: completions of its value; empty for file names.
        has_value: False for a switch and a subcommand.
    """

    name: str
    help: str
    values: tuple[str, ...] = ()
    has_value: bool = True


@dataclass(frozen=True)
class Command:
    """Words behind a command or a subcommand.

    Attributes:
        path: ("train",) or ("convert", "to-hf").
        words: flags and subcommands of its own.
        run_keys: the keys of a run follow too.
    """

    path: tuple[str, ...]
    words: tuple[Word, ...]
    run_keys: bool = False


def script(shell: str) -> str:
    """Return the completion script of a shell, a name in `SHELLS`."""
    return SHELLS[shell](list(read_commands()))


def read_commands() -> Iterator[Command]:
    """Yield the commands and subcommands from their declarations."""
    for name in COMMANDS:
        if name in PAGES:
            yield _paged(name, PAGES[name])
        else:
            module = importlib.import_module(f"targetsft_jax.{name}")
            yield from _parsed((name,), module.parser())


def _paged(name: str, page: Page) -> Command:
    """Return a command whose arguments are the keys of a section."""
    is_run = page.section is Config
    words = [Word("--help", "Print the help of a topic.", _topics(page.section))]
    for usage, help in page.arguments:
        flag, _, value = usage.partition(" ")
        words.append(_with_configurations(Word(flag, help, (), bool(value))))
    words += [] if is_run else key_words(page.section)
    return Command((name,), tuple(words), is_run)


def key_words(section: type, prefix: str = "--") -> Iterator[Word]:
    """Yield the keys of a section, nested ones included, with their values."""
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        name, kind = f"{prefix}{field.name}", hints[field.name]
        inner = nested_section(kind)
        if inner is not None:
            yield from key_words(inner, f"{name}.")
            continue
        domain = field.metadata["domain"]
        values = domain.choices if domain is not None else ()
        if kind is bool:
            values = ("true", "false")
        help = " ".join(field.metadata["help"].split()).partition(". ")[0]
        yield Word(name, help, values)


def _parsed(path: tuple[str, ...], parser: CommandParser) -> Iterator[Command]:
    """Yield a command and its subcommands from their parser."""
    words = [word for action in parser.options() for word in _flags(action)]
    if parser.run_keys:
        words = [word for word in words if word.name != "--help"]
        words.append(Word("--help", "Print the help of a topic.", _topics(Config)))
        if "--config" not in (word.name for word in words):
            words.append(_with_configurations(Word("--config", TRAIN.arguments[0][1])))
    subcommands = parser.subparsers()
    for name, each in subcommands.items():
        words.append(Word(name, (each.description or "").partition("\n")[0], (), False))
    yield Command(path, tuple(words), parser.run_keys)
    for name, each in subcommands.items():
        yield from _parsed((*path, name), each)


def _flags(action: argparse.Action) -> Iterator[Word]:
    """Yield the long flags of an argument, or the values of a positional one."""
    values = tuple(map(str, action.choices or ()))
    help = (action.help or "").replace("%(default)s", str(action.default))
    if not action.option_strings:
        yield from (Word(value, help, (), False) for value in values)
    for flag in action.option_strings:
        if flag.startswith("--"):
            word = Word(flag, help, values, action.nargs != 0)
            yield _with_configurations(word)


def _with_configurations(word: Word) -> Word:
    if word.name != "--config":
        return word
    return dataclasses.replace(word, values=tuple(names()))


def _topics(section: type) -> tuple[str, ...]:
    hints = typing.get_type_hints(section)
    return (*(n for n, kind in hints.items() if nested_section(kind)), GENERAL, ALL)


_BASH = """\
# bash completion of targetsft: eval "$(targetsft completion bash)"
_targetsft() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}
    local i route= all= values=
    # An equals sign is a word of its own.
    [[ $previous == = ]] && previous=${COMP_WORDS[COMP_CWORD-2]}
    [[ $current == = ]] && previous=${COMP_WORDS[COMP_CWORD-1]} && current=
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -* ]] && break
        route+="${route:+ }${COMP_WORDS[i]}"
    done
BODY
    if [[ -n $values ]]; then
        all=$values
    elif [[ $previous == -* && $current != -* ]]; then
        return
    fi
    COMPREPLY=($(compgen -W "$all" -- "$current"))
}
complete -o default -F _targetsft targetsft
"""

_ZSH = """\
#compdef targetsft
# zsh completion of targetsft: eval "$(targetsft completion zsh)"
_targetsft() {
    local current=${words[CURRENT]} previous=${words[CURRENT-1]}
    local i route= all= values=
    for ((i = 2; i < CURRENT; i++)); do
        [[ ${words[i]} == -* ]] && break
        route+="${route:+ }${words[i]}"
    done
BODY
    if [[ -n $values ]]; then
        compadd -- ${=values}
        [[ $previous != --config ]] || _files
    elif [[ $previous == -* && $current != -* ]]; then
        _files
    else
        compadd -- ${=all}
        [[ $current == -* || -z $route ]] || _files
    fi
}
compdef _targetsft targetsft
"""


def _posix(template: str, commands: list[Command]) -> str:
    """Fill the template of bash or zsh."""
    return template.replace("BODY", "\n".join(_cases(commands)))


def _cases(commands: list[Command]) -> Iterator[str]:
    """Cases that bash and zsh share: commands to words, flags to values."""
    keys = list(key_words(Config))
    yield f"    local run={shlex.quote(' '.join(word.name for word in keys))}"
    yield "    case $route in"
    top = shlex.quote(" ".join([*COMMANDS, "--help", "--version"]))
    yield f'        "") all={top} ;;'
    for command in sorted(commands, key=lambda each: -len(each.path)):
        route = " ".join(command.path)
        all_words = shlex.quote(" ".join(word.name for word in command.words))
        run = ' all+=" $run";' if command.run_keys else ""
        yield f'        "{route}" | "{route} "*) all={all_words};{run} ;;'
    yield "    esac"
    yield '    case "$route $previous" in'
    for command in commands:
        for word in command.words:
            if word.values:
                label = f'"{" ".join(command.path)} {word.name}"'
                yield f"        {label}) values={shlex.quote(' '.join(word.values))} ;;"
    yield "    esac"
    yield '    if [[ -z $values && $all == *"$run" ]]; then'
    yield "        case $previous in"
    for word in keys:
        if word.values:
            values = shlex.quote(" ".join(word.values))
            yield f"            {word.name}) values={values} ;;"
    yield "        esac"
    yield "    fi"


def _fish(commands: list[Command]) -> str:
    """Script of fish: a line per word."""
    lines = ["# fish completion of targetsft: targetsft completion fish | source"]
    for name, text in COMMANDS.items():
        lines.append(_fish_line("__fish_use_subcommand", Word(name, text, (), False)))
    for command in commands:
        condition = " && ".join(map(_FISH_SEEN, command.path))
        lines += [_fish_line(condition, word) for word in command.words]
    run = " ".join(command.path[-1] for command in commands if command.run_keys)
    lines += [_fish_line(_FISH_SEEN(run), word) for word in key_words(Config)]
    return "\n".join([*lines, ""])


_FISH_SEEN = "__fish_seen_subcommand_from {}".format


def _fish_line(condition: str, word: Word) -> str:
    start = f"complete -c targetsft -n {shlex.quote(condition)}"
    about = shlex.quote(" ".join(word.help.split()))
    if not word.name.startswith("--"):
        return f"{start} -f -a {word.name} -d {about}"
    value = " -r" if word.has_value else ""
    if word.values:
        # The value of `--config` may also be a file.
        no_files = "" if word.name == "--config" else " -f"
        value += f"{no_files} -a {shlex.quote(' '.join(word.values))}"
    return f"{start} -l {word.name[2:]} -d {about}{value}"


SHELLS: Mapping[str, Callable[[list[Command]], str]] = {
    "bash": partial(_posix, _BASH),
    "zsh": partial(_posix, _ZSH),
    "fish": _fish,
}
"""Shell -> function that writes its script."""
