"""Architecture: layers, size limits, style, types, generated documentation."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from targetsft_jax import METHODS
from targetsft_jax.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "targetsft_jax"
BIN = Path(sys.executable).parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
SOURCES = sorted(PACKAGE.rglob("*.py"))
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

FILE_LINES = 420
FUNCTION_LINES = 80
"""Lines of a function, docstring excluded."""
TRAINING_FILES = 16
KERNELS: dict[str, str] = {}
"""Functions that may be longer: "file.py:name" -> the reason."""

OPENINGS = re.compile(r"(What|Where|Whether|Which|How|Of|As|From)\b")
"""Forbidden first words of docstrings (docs/style.md)."""

MARKS = re.compile(
    r"\b(anew|asked|for ever|go on with|goes on|gone on|leaps?|leapt|said|says|told"
    r"|torn|wish(es|ed)?)\b|(?<!there )\b(is|are) no\b(?! longer| more)",
    re.IGNORECASE,
)
"""Forbidden phrases in strings of the source (docs/style.md)."""


def _run(*command: str) -> None:
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def _docs_generator() -> ModuleType:
    path = ROOT / ".ci" / "generated_docs.py"
    spec = importlib.util.spec_from_file_location("generated_docs", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _modules(room: str) -> Iterator[Path]:
    """Modules of a room, or those outside the rooms."""
    return (PACKAGE / room).rglob("*.py") if room else PACKAGE.glob("*.py")


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
            names.add(node.module)
    return names


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


def test_the_layers_have_every_room_without_exception() -> None:
    layers, *others = PYPROJECT["importlinter"]["contracts"]
    names = [name.strip() for layer in layers["layers"] for name in layer.split("|")]
    rooms = {name.removeprefix("targetsft_jax.") for name in names}
    assert set(ROOMS) <= rooms
    for contract in (layers, *others):
        assert not contract.get("ignore_imports")


def test_no_module_imports_a_command() -> None:
    commands = {f"targetsft_jax.{name}" for name in [*COMMANDS, "__main__"]}
    for path in SOURCES:
        assert not _imports(path) & commands, path


def test_flax_is_forbidden_outside_models() -> None:
    contract = PYPROJECT["importlinter"]["contracts"][2]
    assert contract["forbidden_modules"] == ["flax"]
    rooms = {name.removeprefix("targetsft_jax.") for name in contract["source_modules"]}
    assert rooms == {*ROOMS} - {"models"}


def test_files_are_short() -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert not {path: n for path, n in lengths.items() if n > FILE_LINES}
    training = [path for path in SOURCES if path.parent.name == "training"]
    assert len(training) <= TRAINING_FILES + 1  # and its __init__.py


def test_functions_are_short() -> None:
    long = {}
    for path in SOURCES:
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = node.body[0]
            has_docstring = ast.get_docstring(node) is not None
            docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
            lines = node.end_lineno - node.lineno + 1 - docstring
            name = f"{path.relative_to(PACKAGE).as_posix()}:{node.name}"
            if lines > FUNCTION_LINES and name not in KERNELS:
                long[name] = lines
    assert not long


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_docstrings_open_with_a_verb_or_a_noun(room: str) -> None:
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    violations = []
    for path in _modules(room):
        for node in ast.walk(_tree(path)):
            text = ast.get_docstring(node) if isinstance(node, kinds) else None
            if text is None:
                continue
            if OPENINGS.match(text):
                violations.append(
                    f"{path.relative_to(PACKAGE)}: {text.splitlines()[0]}"
                )
    assert not violations


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_modules_have_a_docstring(room: str) -> None:
    for path in _modules(room):
        assert ast.get_docstring(_tree(path)), path


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_text_has_no_banned_phrase(room: str) -> None:
    violations = []
    for path in _modules(room):
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for match in MARKS.finditer(node.value):
                    line = node.value[: match.end() + 20].splitlines()[-1]
                    violations.append(
                        f"{path.relative_to(PACKAGE)}:{node.lineno}: {line}"
                    )
    assert not violations


def test_generated_documentation_is_current() -> None:
    docs = _docs_generator()
    remedy = "run python .ci/generated_docs.py --write"
    for page, text in docs.current_pages().items():
        assert page.is_file() and page.read_text(encoding="utf-8") == text, remedy


def test_every_method_has_its_page_and_no_other_page_is_left() -> None:
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")}
    assert pages == {*METHODS}


def test_every_generated_section_is_on_one_page() -> None:
    docs = _docs_generator()
    text = "".join(page.read_text(encoding="utf-8") for page in docs.pages())
    for name in docs.PARTS:
        assert len(re.findall(rf"^<!-- {name} -->$", text, re.M)) == 1, name


def test_links_between_pages_resolve() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    for page in [*pages, ROOT / "perf" / "README.md"]:
        text = page.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_tests_that_the_documentation_names_exist() -> None:
    paths = list((ROOT / "tests").rglob("test_*.py"))
    files = {path.name for path in paths}
    sources = "".join(path.read_text(encoding="utf-8") for path in paths)
    for page in (ROOT / "docs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"\btests/[a-z_/]+\.py\b", text):
            assert (ROOT / path).is_file(), f"{page.name}: {path}"
        for name in re.findall(r"(?<!/)\b(test_\w+)(?=\.py)", text):
            assert f"{name}.py" in files, f"{page.name}: {name}.py"
        # A name may be shortened by an ellipsis.
        for name in re.findall(r"(?:::|`)(test_\w+)(?=[`…])", text):
            assert f"def {name}" in sources, f"{page.name}: {name}"


def test_readme_has_the_two_commands() -> None:
    for word in ("pytest", "targetsft_jax.train"):
        _run(sys.executable, ".ci/readme_command.py", word)


def test_a_wheel_has_every_configuration() -> None:
    """The patterns of package-data match every file under the linked folder."""
    patterns = PYPROJECT["setuptools"]["package-data"]["targetsft_jax"]
    assert (PACKAGE / "configs").samefile(ROOT / "configs")
    packaged = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    files = [path for path in (ROOT / "configs").rglob("*") if path.is_file()]
    for path in files:
        assert PACKAGE / path.relative_to(ROOT) in packaged


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")))
def test_configs_are_valid_and_have_their_command(path: Path) -> None:
    from targetsft_jax.config.load import load

    text = path.read_text(encoding="utf-8")
    assert f"python -m targetsft_jax.train --config configs/{path.name}" in text
    arguments = ["--data.path", "x.jsonl"] if "source: jsonl" in text else []
    if "build:" not in text:
        arguments += ["--student.path", "s", "--teacher.path", "t"]
    config = load(["--config", str(path), *arguments])
    assert config.run_dir == f"runs/{path.stem}"


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "compare").glob("*.yaml")))
def test_comparisons_have_their_command(path: Path) -> None:
    command = f"python -m targetsft_jax.compare --config configs/compare/{path.name}"
    assert command in path.read_text(encoding="utf-8")
