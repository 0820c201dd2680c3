"""Text of `--help`: a page with the most used keys, then one topic per section."""

import dataclasses
import difflib
import json
import textwrap
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from targetsft_jax.config.schema import Config, ConfigError
from targetsft_jax.config.target import TargetConfig
from targetsft_jax.config.tree import nested_section, words
from targetsft_jax.keys import shown_name
from targetsft_jax.targets.describe import describe
from targetsft_jax.targets.methods import METHODS

WIDTH = 88
GENERAL, ALL = "general", "all"
"""Topics of the keys outside of sections, and of all keys."""

_COLUMN = 26
_BRACKETS = "In brackets: the default, then the accepted values."


@dataclass(frozen=True)
class Page:
    """Help of a command whose arguments are the keys of a section.

    Attributes:
        section: declaration of the keys.
        usage: command line in short.
        about: one sentence.
        examples: command lines that work as they are, or after a path is replaced.
        common: dotted paths of the most used keys, in the order of their help.
        arguments: names and help of the arguments beside these keys.
    """

    section: type
    usage: str
    about: str
    examples: Sequence[str]
    common: Sequence[str]
    arguments: Sequence[tuple[str, str]] = ()

    def text(self, topic: str | None = None) -> str:
        """Return the page, or the help of a topic: a section, key, general or all.

        Raises:
            ConfigError: there is no such topic.
        """
        if topic is not None:
            return topic_help(self.section, topic)
        keys = dict(_keys(self.section, ""))
        lines = [f"usage: {self.usage}", "", *textwrap.wrap(self.about, WIDTH)]
        lines += ["", "examples:", *(f"  {example}" for example in self.examples), ""]
        for name, help in self.arguments:
            lines += entry(name, help)
        lines += entry("--help [TOPIC]", "Print this page, or the help of a topic.")
        lines += ["", "most used keys:"]
        for path in self.common:
            lines += entry(f"--{path}", _brief(keys[path]))
        lines += ["", "topics of --help:", *_topics(self.section)]
        return "\n".join(lines) + "\n"


TRAIN = Page(
    Config,
    "targetsft train --config FILE [--KEY VALUE …]",
    "Train a student toward an explicit target distribution. The same command resumes.",
    (
        "targetsft train --config quickstart",
        "targetsft train --config quickstart --target.name dft --run_dir runs/dft",
        "targetsft train --student.path MODEL --target.name dft --data.path F.jsonl",
    ),
    (
        "target.name",
        "student.path",
        "teacher.path",
        "data.path",
        "data.max_length",
        "train.steps",
        "train.batch_size",
        "train.learning_rate",
        "evaluation.problems",
        "run_dir",
    ),
    (
        ("--config FILE", "YAML file, or the name of a shipped configuration."),
        ("--print-config", "Print the resolved configuration and exit."),
    ),
)
"""Page of `train`; its topics serve all commands that read a run's configuration."""


def topic_help(section: type, topic: str) -> str:
    """Return the help of a topic: a section, a key, `general` or `all`.

    Raises:
        ConfigError: there is no such topic.
    """
    if topic == ALL:
        lines = list(_section_lines(section, ""))
    elif topic == GENERAL:
        lines = list(_general(section))
    else:
        path = topic.removeprefix("--")
        keys = dict(_keys(section, ""))
        if path not in keys:
            raise ConfigError(_unknown(section, topic, list(keys)))
        field, kind = keys[path]
        inner = nested_section(kind)
        if inner is None:
            lines = entry(f"--{path}", _full(field, kind))
        else:
            lines = [*textwrap.wrap(f"{path}: {_help(field)}", WIDTH)]
            lines += _section_lines(inner, f"{path}.")
    return "\n".join([*lines, "", _BRACKETS]) + "\n"


def entry(name: str, text: str) -> list[str]:
    """Lines of an argument and its help, in two columns."""
    body = textwrap.wrap(text, WIDTH - _COLUMN)
    gap = " " * _COLUMN
    if len(name) + 4 > _COLUMN:
        return [f"  {name}", *(gap + line for line in body)]
    first, *rest = body or [""]
    return [f"  {name}".ljust(_COLUMN) + first, *(gap + line for line in rest)]


def _topics(section: type) -> Iterator[str]:
    for field, inner in _nested(section):
        if inner is not None:
            yield from entry(field.name, _brief((field, inner)))
    yield from entry(
        GENERAL, f"{', '.join(f.name for f, n in _nested(section) if not n)}."
    )
    yield from entry(ALL, "All keys. A dotted key, such as mesh.data, is a topic too.")


def _section_lines(section: type, prefix: str) -> Iterator[str]:
    """Keys of a section, then its nested sections, each under a title."""
    if section is TargetConfig:
        yield from _target_lines(prefix)
        return
    yield from _general(section, prefix)
    for field, inner in _nested(section):
        if inner is not None:
            path = f"{prefix}{field.name}"
            yield ""
            yield from textwrap.wrap(f"{path}: {_help(field)}", WIDTH)
            yield from _section_lines(inner, f"{path}.")


def _general(section: type, prefix: str = "") -> Iterator[str]:
    hints = typing.get_type_hints(section)
    for field, inner in _nested(section):
        if inner is None:
            yield from entry(f"--{prefix}{field.name}", _full(field, hints[field.name]))


def _target_lines(prefix: str) -> Iterator[str]:
    """Methods, each with its own hyper-parameters."""
    default = json.dumps(TargetConfig().name)
    yield from entry(f"--{prefix}name", f"Training method, one of these: [{default}]")
    for name, method in METHODS.items():
        yield ""
        yield from textwrap.wrap(f"{name}: {describe(method).title}.", WIDTH)
        for key, hyper in method.hyper.items():
            default = json.dumps(hyper.default)
            text = f"{hyper.help} [{default}; {hyper.domain.expected}]"
            yield from entry(f"--{prefix}{key}", text)


def _nested(section: type) -> Iterator[tuple[dataclasses.Field, type | None]]:
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        yield field, nested_section(hints[field.name])


def _keys(section: type, prefix: str) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Dotted paths of all keys and sections, with field and type."""
    hints = typing.get_type_hints(section)
    for field, inner in _nested(section):
        path = f"{prefix}{field.name}"
        yield path, (field, hints[field.name])
        if inner is not None:
            yield from _keys(inner, f"{path}.")


def _full(field: dataclasses.Field, kind: Any) -> str:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    domain = field.metadata["domain"]
    accepted = words(kind) if domain is None else domain.expected
    return f"{_help(field)} [{json.dumps(default)}; {accepted}]"


def _brief(key: tuple[dataclasses.Field, Any]) -> str:
    """First sentence of a key's help, with its default if that is a value."""
    field, _ = key
    text = _help(field).partition(". ")[0].removesuffix(".") + "."
    hidden = (None, "", dataclasses.MISSING)
    default = field.default
    return text if default in hidden else f"{text} [{json.dumps(default)}]"


def _help(field: dataclasses.Field) -> str:
    return " ".join(field.metadata["help"].split())


def _unknown(section: type, topic: str, paths: Sequence[str]) -> str:
    names = [field.name for field, inner in _nested(section) if inner is not None]
    similar = difflib.get_close_matches(topic, [*names, *paths], 1)
    hint = f". Did you mean {similar[0]}?" if similar else ""
    return (
        f"--help {shown_name(topic)} is not a topic; expected a key or one of "
        f"{', '.join([*names, GENERAL, ALL])}{hint}"
    )
