"""Text of `--help`: every key with its type, default and domain."""

import dataclasses
import json
import textwrap
import typing
from collections.abc import Iterator, Sequence
from typing import Any

from targetsft_jax.config.schema import Config
from targetsft_jax.config.tree import nested_section, words

_WIDTH = 88


def help_text() -> str:
    """Help of all commands that read the configuration of a run."""
    usage = (
        "python -m targetsft_jax.train --config FILE [--KEY VALUE …]",
        "Train a student toward an explicit target distribution.",
    )
    before = [
        *_entry("--config FILE", "YAML file, or the name of a shipped configuration."),
        *_entry("--print-config", "Print the resolved configuration and exit."),
    ]
    return section_help(Config, *usage, before)


def section_help(
    section: type, usage: str, about: str, before: Sequence[str] = ()
) -> str:
    """Help of a command whose arguments are the keys of a section.

    Args:
        section: declaration of the keys.
        usage: command line in short.
        about: one sentence.
        before: lines of arguments other than keys.
    """
    lines = [f"usage: {usage}", "", about, "", *before]
    lines += [*_entry("--help", "Print this text and exit."), *_lines(section, "")]
    return "\n".join(lines) + "\n"


def _lines(section: type, prefix: str) -> Iterator[str]:
    """Keys of a section, then its nested sections, each under a title."""
    hints = typing.get_type_hints(section)
    nested = []
    for field in dataclasses.fields(section):
        inner = nested_section(hints[field.name])
        if inner is None:
            yield from _entry(f"--{prefix}{field.name}", _text(field, hints))
        else:
            nested.append((field, inner))
    for field, inner in nested:
        path = f"{prefix}{field.name}"
        yield ""
        yield from textwrap.wrap(f"{path}: {_help(field)}", _WIDTH)
        yield from _lines(inner, f"{path}.")


def _text(field: dataclasses.Field, hints: dict[str, Any]) -> str:
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    domain = field.metadata["domain"]
    kind = words(hints[field.name]) if domain is None else domain.expected
    return f"{_help(field)} [{kind}; default: {json.dumps(default)}]"


def _help(field: dataclasses.Field) -> str:
    return " ".join(field.metadata["help"].split())


def _entry(name: str, text: str) -> list[str]:
    body = textwrap.wrap(text, _WIDTH - 6)
    return [f"  {name}", *(f"      {line}" for line in body)]
