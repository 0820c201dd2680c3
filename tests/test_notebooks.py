"""Notebooks in examples/: stored without outputs, one first cell, and executed."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PATHS = sorted((ROOT / "examples").glob("*.ipynb"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
SECONDS = 300
"""Longest time of a cell."""

notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def code(path: Path) -> list[str]:
    """Sources of the code cells."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def test_the_notebooks_of_the_list_exist() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"\]\((\w+\.ipynb)\)", page)
    assert sorted(names) == [path.name for path in PATHS]
    assert len(PATHS) >= 3


@notebooks
def test_nothing_of_an_execution_is_stored(path: Path) -> None:
    assert path.stat().st_size < 100_000
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


@notebooks
def test_links_to_notebooks_and_files_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_all_have_the_same_first_cell() -> None:
    first, *others = {code(path)[0] for path in PATHS}
    assert not others
    assert len(re.findall(r"git\+\S+", first)) == 1  # the address, once


SESSION = """
import glob, importlib.util, subprocess, sys
cell, device, state = sys.argv[1:]
glob.glob = lambda pattern: [pattern] if device and pattern.startswith(device) else []
importlib.util.find_spec = lambda name: object() if state == "installed" else None
subprocess.run = lambda command, check: print("pip", *command[2:])
if state == "jax imported":
    import jax
exec(open(cell).read())
"""
"""A machine with a device file, on which pip only prints its arguments."""

JAX = """
class Device:
    platform = "{platform}"
    __repr__ = lambda self: self.platform
__version__ = "0"
def devices():
    {error}
    return [Device()]
"""


@pytest.fixture
def first_cell(tmp_path):
    """Runs the first cell beside a fake jax; returns what it prints."""

    def run(device="", state="absent", platform="cpu", error="pass") -> str:
        fake = JAX.format(platform=platform, error=error)
        (tmp_path / "jax.py").write_text(fake, encoding="utf-8")
        (tmp_path / "cell.py").write_text(code(PATHS[0])[0], encoding="utf-8")
        result = subprocess.run(
            [sys.executable, "-c", SESSION, "cell.py", device, state],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return result.stdout + result.stderr

    return run


@pytest.mark.parametrize(
    "device, extras",
    [("", "report"), ("/dev/accel", "report,tpu"), ("/dev/nvidia", "report,cuda")],
)
def test_the_first_cell_installs_the_extra_of_the_accelerator(
    first_cell, device, extras
) -> None:
    printed = first_cell(device)
    assert f"pip pip install -q targetsft-jax[{extras}] @ git+https://" in printed
    assert set(extras.split(",")) <= set(EXTRAS)


def test_the_first_cell_leaves_an_installed_package_alone(first_cell) -> None:
    printed = first_cell("/dev/accel", "installed", platform="tpu")
    assert printed == "jax 0: tpu\n"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (dict(state="jax imported"), "an older jax is in use"),
        (dict(device="/dev/nvidia", state="installed"), "jax does not use the CUDA"),
        (dict(error="raise RuntimeError('no plug-in')"), "no devices (no plug-in)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_first_cell_asks_for_a_restart(first_cell, arguments, reason) -> None:
    printed = first_cell(**arguments)
    assert reason in printed
    assert "restart the session (menu Runtime or Run) and run all cells" in printed


@pytest.mark.slow
@notebooks
def test_every_cell_runs_and_every_notebook_draws(path: Path, tmp_path) -> None:
    reason = "the extra `notebooks` is not installed"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    pytest.importorskip("ipykernel", reason=reason)
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}
    )
    # One device and the package of this checkout, as a reader has them.
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": str(ROOT)}
    client.execute(env=environment)  # Raises CellExecutionError.
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    warnings = [o.text for o in outputs if o.get("name") == "stderr"]
    assert not warnings, warnings
