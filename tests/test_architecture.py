"""The shape of the project: layers, style, types, README."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("lint-imports", "--no-cache"),
        ("mypy", "--cache-dir=/dev/null"),
    ],
    ids=lambda command: command[0] + command[1],
)
def test_checks_pass(command: tuple[str, ...]) -> None:
    _run(str(BIN / command[0]), *command[1:])


def test_generated_parts_are_current() -> None:
    path = ROOT / ".ci" / "readme_parts.py"
    spec = importlib.util.spec_from_file_location("readme_parts", path)
    parts = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parts)
    for path in parts.FILES:
        text = path.read_text(encoding="utf-8")
        assert parts.current(text) == text, f"{path}: run .ci/readme_parts.py --write"


def test_readme_has_the_two_commands() -> None:
    for word in ("pytest", "targetsft_jax.train"):
        _run(sys.executable, ".ci/readme_command.py", word)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")))
def test_configs_are_valid_and_say_their_command(path: Path) -> None:
    from targetsft_jax.config.schema import load

    text = path.read_text(encoding="utf-8")
    assert f"python -m targetsft_jax.train --config configs/{path.name}" in text
    given = ["--data.path", "x.jsonl"] if "source: jsonl" in text else []
    if "build:" not in text:
        given += ["--student.path", "s", "--teacher.path", "t"]
    config = load(["--config", str(path), *given])
    assert config.run_dir == f"runs/{path.stem}"
