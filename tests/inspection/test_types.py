"""Types of the page's scripts, checked by the TypeScript compiler."""

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

from targetsft_jax.inspection.page import SCRIPTS

TEMPLATE = Path(str(files("targetsft_jax.inspection") / "template"))
OPTIONS = (
    "--allowJs --checkJs --strict --noEmit --target es2022 "
    "--lib es2022,dom,dom.iterable"
)


def _check(folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("tsc")
    if compiler is None:
        pytest.skip("no tsc on the path: npm install typescript")
    scripts = [str(folder / name) for name in ("types.d.ts", *SCRIPTS)]
    return subprocess.run(
        [compiler, *OPTIONS.split(), *scripts], capture_output=True, text=True
    )


def test_the_scripts_have_no_type_errors() -> None:
    result = _check(TEMPLATE)
    assert result.returncode == 0, result.stdout


def test_a_type_error_is_found(tmp_path: Path) -> None:
    shutil.copytree(TEMPLATE, tmp_path / "template")
    script = tmp_path / "template" / "dom.js"
    text = script.read_text(encoding="utf-8")
    script.write_text(text + 'byId(1).nothing = "x";\n', encoding="utf-8")
    result = _check(tmp_path / "template")
    assert result.returncode != 0 and "dom.js" in result.stdout


def test_every_script_is_in_the_page() -> None:
    assert {path.name for path in TEMPLATE.glob("*.js")} == set(SCRIPTS)
