"""Completion scripts, asked by the shells themselves."""

import re
import shutil
import subprocess

import pytest

from targetsft_jax.cli.completion import SHELLS, key_words, read_commands, script
from targetsft_jax.commands import COMMANDS
from targetsft_jax.config.load import keys
from targetsft_jax.config.schema import Config
from targetsft_jax.config.shipped import names
from targetsft_jax.targets.methods import METHODS

BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_targetsft
printf '%s\\n' "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { : }
compadd() { shift; print -rl -- ${(M)@:#${words[CURRENT]}*} }
_files() { : }
source "$1"; shift
words=("$@"); CURRENT=$#
_targetsft
"""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in SHELLS:
        path = folder / f"targetsft.{shell}"
        path.write_text(script(shell), encoding="utf-8")
    return folder


def _complete(shell: str, scripts, *words: str) -> set[str]:
    """Completions of the last word of a command line."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    path = str(scripts / f"targetsft.{shell}")
    if shell == "fish":
        line = " ".join(["targetsft", *words])
        code = f"source {path}; complete -C '{line}'"
        arguments = [program, "--no-config", "-c", code]
    else:
        text = {"bash": BASH, "zsh": ZSH}[shell]
        clean = {"bash": ["--norc"], "zsh": ["-f"]}[shell]
        arguments = [program, *clean, "-c", text, shell, path, "targetsft", *words]
    result = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0 and not result.stderr, result.stderr
    lines = result.stdout.splitlines()
    return {line.partition("\t")[0] for line in lines if line}


CASES = [
    ([""], set(COMMANDS)),
    (["comp"], {"compare", "completion"}),
    (["train", "--train.learn"], {"--train.learning_rate"}),
    (["train", "--config", "quick"], {"quickstart"}),
    (["train", "--seed", "1", "--target.name", "target"], {"target_sft"}),
    (["train", "--help", "te"], {"teacher"}),
    (["train", "--print"], {"--print-config"}),
    (["plan", "--topology", "cpu:1", "--data.overlong", "d"], {"drop"}),
    (["plan", "--top"], {"--topology"}),
    (["evaluate", "--mesh.coord"], {"--mesh.coordinator"}),
    (["evaluate", "--mode", "str"], {"strict"}),
    (["convert", "to-"], {"to-hf", "to-peft"}),
    (["convert", "to-hf", "--max"], {"--max-shard-size"}),
    (["convert", "to-hf", "--dtype", "bf"], {"bfloat16"}),
    (["configs", "cp", "compare/pl"], {"compare/plane"}),
    (["completion", "b"], {"bash"}),
]


@pytest.mark.parametrize("shell", SHELLS)
def test_completions_of_a_shell(shell, scripts):
    for words, expected in CASES:
        found = _complete(shell, scripts, *words)
        if words == [""]:
            found -= {"--help", "--version"}
        assert found == expected, words


@pytest.mark.parametrize("shell", SHELLS)
def test_a_file_is_completed_by_the_shell(shell, scripts):
    if shell != "fish":
        assert _complete(shell, scripts, "train", "--data.path", "x") == set()


def test_the_words_of_train_are_its_keys():
    declared = {word.name for word in key_words(Config)}
    sections = {path.rpartition(".")[0] for path in keys()}
    leaves = {f"--{path}" for path in keys() if path not in sections}
    # Keys of an entry of a list are none.
    leaves = {name for name in leaves if not re.search(r"\.(mixture|others)\.", name)}
    assert leaves - {"--data.mixture", "--teacher.others"} <= declared
    values = {word.name: word.values for word in key_words(Config)}
    assert values["--target.name"] == tuple(METHODS)
    assert values["--resume"] == ("true", "false")


def test_every_command_has_words():
    found = {command.path for command in read_commands()}
    assert {path[0] for path in found} == set(COMMANDS)
    assert ("datasets", "preview") in found
    (cp,) = [c for c in read_commands() if c.path == ("configs", "cp")]
    assert set(names()) <= {word.name for word in cp.words}
