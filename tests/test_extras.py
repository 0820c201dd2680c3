"""Packages of extras: what works without them, and the message that names the extra."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TypeGuard

import pytest

from targetsft_jax.extras import import_extra

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]


def test_an_installed_module_is_returned() -> None:
    assert import_extra("json.decoder", "data", "x").JSONDecoder


def test_a_missing_package_names_user_extra_and_remedy() -> None:
    with pytest.raises(ValueError) as error:
        import_extra("absent_package.part", "data", "rows.parquet", "or use JSON")
    assert str(error.value) == (
        "rows.parquet needs absent_package, which is not installed; "
        'pip install "targetsft-jax[data]", or use JSON'
    )


def test_a_damaged_package_is_not_called_missing(tmp_path, monkeypatch) -> None:
    (tmp_path / "damaged_package.py").write_text("import absent_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        import_extra("damaged_package", "data", "x")


def _imported_extras(path: Path) -> set[str]:
    """Second argument of each call of `import_extra`."""
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if _is_import(n)]
    return {ast.literal_eval(call.args[1]) for call in calls}


def _is_import(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and "import_extra" in ast.unparse(node.func)


def test_every_extra_that_the_code_or_a_page_names_exists() -> None:
    sources = sorted((ROOT / "targetsft_jax").rglob("*.py"))
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    names = set().union(*map(_imported_extras, sources))
    assert {"data", "report", "wandb"} <= names
    for path in (*sources, *pages):
        text = path.read_text(encoding="utf-8")
        for extras in re.findall(r"(?:targetsft-jax|-e \"?\.)\[([a-z,]+)\]", text):
            names |= set(extras.split(","))
    assert names <= set(EXTRAS)


WITHOUT_DATA = """
import sys
for name in ("pyarrow", "tensorflow_datasets", "array_record"):
    sys.modules[name] = None  # As if it were not installed.
from targetsft_jax.data.config import DataConfig
from targetsft_jax.data.records import load_records

def read(**keys):
    try:
        return len(list(load_records(DataConfig(**keys))[0]))
    except ValueError as error:
        return str(error)

print(read(source="jsonl", path="rows.jsonl"))
print(read(source="parquet", path="rows.parquet"))
print(read(source="tfds", dataset="gsm8k", data_dir="built", path="."))
import targetsft_jax.training.run, targetsft_jax.evaluation.evaluate
import targetsft_jax.planning, targetsft_jax.experiments.compare
"""


def test_json_lines_need_no_extra_and_the_others_name_it(tmp_path) -> None:
    row = '{"messages": [{"role": "user", "content": "1"}, '
    row += '{"role": "assistant", "content": "2"}]}\n'
    (tmp_path / "rows.jsonl").write_text(row * 3)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    result = subprocess.run(
        [sys.executable, "-c", WITHOUT_DATA],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    rows, parquet, catalogue = result.stdout.splitlines()
    assert rows == "3"
    assert parquet == (
        'rows.parquet needs pyarrow, which is not installed; pip install "targetsft-jax'
        '[data]", or convert the file to JSON lines'
    )
    assert catalogue == (
        "data set 'gsm8k' needs tensorflow_datasets, which is not installed; "
        'pip install "targetsft-jax[data]"'
    )
