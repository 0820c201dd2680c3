"""Parsers of commands: usage, topics of `--help`, spelling of flags."""

import importlib

import pytest

from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.commands import COMMANDS
from targetsft_jax.config.help import WIDTH

SCREEN_AND_A_HALF = 54


def _parsers() -> dict[str, CommandParser]:
    """Parsers of all commands and subcommands, by their program names."""
    found = {}
    for name in COMMANDS:
        module = importlib.import_module(f"targetsft_jax.{name}")
        if hasattr(module, "parser"):
            pending = [module.parser()]
            while pending:
                parser = pending.pop()
                found[parser.prog] = parser
                pending += parser.subparsers().values()
    return found


PARSERS = _parsers()


def test_the_subcommands_are_found():
    assert {"targetsft convert to-hf", "targetsft datasets build"} <= PARSERS.keys()


@pytest.mark.parametrize("name", PARSERS)
def test_a_help_fits_a_screen_and_a_half(name):
    lines = PARSERS[name].format_help().splitlines()
    assert len(lines) <= SCREEN_AND_A_HALF
    assert max(map(len, lines)) <= WIDTH
    assert f"{lines[0]} ".startswith(f"usage: {name} ") and lines[1] == ""
    has_topic = "--help [TOPIC]" in "\n".join(lines)
    assert has_topic == PARSERS[name].run_keys


@pytest.mark.parametrize("flag", ["--dry-run", "--dry_run"])
def test_a_flag_has_two_spellings(flag):
    parser = PARSERS["targetsft compare"]
    options, rest = parser.parse_known_args(["--config", "x", flag])
    assert options.dry_run and not rest


def test_keys_of_a_run_are_left_over_in_their_own_spelling():
    parser = PARSERS["targetsft plan"]
    _, rest = parser.parse_known_args(
        ["--topology", "cpu:1", "--train.batch_size", "4", "--print_config"]
    )
    assert rest == ["--train.batch_size", "4", "--print_config"]


def test_help_takes_a_topic_where_the_keys_of_a_run_are_read(capsys):
    with pytest.raises(SystemExit) as end:
        PARSERS["targetsft plan"].parse_args(["--help", "mesh"])
    assert end.value.code == 0
    assert "--mesh.fsdp" in capsys.readouterr().out


def test_an_unknown_topic_is_bad_usage(capsys):
    with pytest.raises(SystemExit) as end:
        PARSERS["targetsft plan"].parse_args(["--help", "trian"])
    assert end.value.code == 2
    assert "Did you mean train?" in capsys.readouterr().err


def test_invalid_arguments_are_the_usage_and_one_line(capsys):
    with pytest.raises(SystemExit) as end:
        PARSERS["targetsft report"].parse_args([])
    assert end.value.code == 2
    usage, message = capsys.readouterr().err.splitlines()
    assert usage.startswith("usage: targetsft report RUN")
    assert message.startswith("targetsft report: ") and "RUN" in message


def test_a_misspelt_choice_suggests_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as end:
        PARSERS["targetsft convert"].parse_args(["to-hg", "a", "b"])
    assert end.value.code == 2
    assert "Did you mean to-hf?" in capsys.readouterr().err
