"""List of commands, and dispatch."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import targetsft_jax
from targetsft_jax.__main__ import main
from targetsft_jax.cli.completion import PAGES
from targetsft_jax.cli.parser import CommandParser
from targetsft_jax.commands import COMMANDS

PACKAGE = Path(targetsft_jax.__file__).parent
MODULES = [*COMMANDS, "__main__"]

SHELL = {
    "BaseException",
    "ConfigError",
    "Exception",
    "KeyboardInterrupt",
    "OSError",
    "UsageError",
    "ValueError",
}
"""Errors that `command.run_command` maps to messages and exit codes."""


def source(module: str) -> str:
    return (PACKAGE / f"{module}.py").read_text(encoding="utf-8")


def test_every_module_with_a_main_is_listed() -> None:
    modules = {
        path.stem
        for path in PACKAGE.glob("*.py")
        if "\ndef main(" in path.read_text(encoding="utf-8")
    }
    assert modules == set(MODULES)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_a_main_and_a_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        importlib.import_module(f"targetsft_jax.{name}").main(["--help"])
    assert exit_.value.code == 0
    first, *_ = capsys.readouterr().out.splitlines()
    assert f"{first} ".startswith(f"usage: targetsft {name} ")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_its_arguments_for_the_completion(name: str) -> None:
    module = importlib.import_module(f"targetsft_jax.{name}")
    assert (name in PAGES) != isinstance(
        getattr(module, "parser", lambda: None)(), CommandParser
    )


@pytest.mark.parametrize("name", MODULES)
def test_each_fits_on_a_screen(name: str) -> None:
    assert len(source(name).splitlines()) <= 60


@pytest.mark.parametrize("name", COMMANDS)
def test_each_leaves_errors_and_exit_codes_to_run_command(name: str) -> None:
    tree = ast.parse(source(name))
    handlers = [n.type for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler)]
    assert None not in handlers
    caught = {
        node.id for each in handlers for node in ast.walk(each) if hasattr(node, "id")
    }
    assert not caught & SHELL
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "run_command" in names
    assert "stderr" not in source(name)


def test_each_has_a_sentence(capsys) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    for name, sentence in COMMANDS.items():
        assert sentence.endswith(".") and sentence.count(". ") == 0
        assert f"  {name} " in printed and sentence in printed


def test_arguments_and_exit_code_pass_through(monkeypatch) -> None:
    module = importlib.import_module("targetsft_jax.convert")
    monkeypatch.setattr(module, "main", lambda arguments: (len(arguments), *arguments))
    rest = ["to-hf", "--help", "--version"]
    assert main(["convert", *rest]) == (3, *rest)


def test_an_unknown_command_is_bad_usage(capsys) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["trian"])
    assert exit_.value.code == 2
    assert "'trian' is not a command; did you mean train?" in capsys.readouterr().err


def test_the_package_is_a_command() -> None:
    command = [sys.executable, "-m", "targetsft_jax", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"targetsft-jax {targetsft_jax.__version__}\n"
