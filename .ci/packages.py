"""Build wheel and sdist, check their files, and install them in clean environments.

    python .ci/packages.py --contents                        # a few seconds
    python .ci/packages.py python3.11 python3.12 python3.13  # minutes, a few GB of disk

Builds a copy of this checkout. For each interpreter the wheel is installed without
extras, then `data`, `test` and `tpu` are added in turn; each time the commands of a new
user run outside of the repository. `cuda` is only resolved, since it downloads
gigabytes. Prints the table of docs/install.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = ("", "data", "test", "tpu")
"""Extras in the order of their installation; "" is none."""
RESOLVED_ONLY = "cuda"
IGNORED = (
    ".git",
    ".venv",
    ".*_cache",
    "__pycache__",
    "*.egg-info",
    "build",
    "dist",
    "runs",
)
UNSHIPPED = (".py", ".pyc", ".d.ts")
"""Endings of files that the check of contents leaves out: modules are imported, and
types of scripts are for the tests."""

COMMANDS = (
    "targetsft --version",
    "targetsft env",
    "targetsft train --config quickstart --print-config",
    "targetsft datasets list",
    "python -m pip check",
)
"""Commands that must succeed in every environment, in an empty folder."""

QUICKSTART = (
    "targetsft train --config quickstart --run_dir run --cache_dir cache"
    " --student.build.steps 2 --teacher.build.steps 2 --train.steps 2"
    " --evaluation.problems 2 --evaluation.samples 2"
)
"""A shortened quickstart, which needs no extra."""

IMPORTS = """
import importlib, pkgutil, targetsft_jax
for module in pkgutil.walk_packages(targetsft_jax.__path__, "targetsft_jax."):
    if module.name != "targetsft_jax.evaluation.inspect_provider":  # extra `inspect`
        importlib.import_module(module.name)
"""
"""Every module can be imported without any extra."""


def main() -> None:
    """Build, check and install; exits with a message at the first fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", nargs="*", help="interpreters")
    parser.add_argument("--contents", action="store_true", help="build and check only")
    parser.add_argument("--out", type=Path, help="folder for wheel and sdist")
    parser.add_argument("--tag", help="refuse a version other than that of vX.Y.Z")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="targetsft-packages-") as scratch:
        wheel = build(Path(scratch))
        version = wheel.name.split("-")[1]
        if arguments.tag not in (None, f"v{version}"):
            sys.exit(f"the tag is {arguments.tag}; expected v{version}")
        if arguments.out:
            shutil.copytree(wheel.parent, arguments.out, dirs_exist_ok=True)
        if arguments.contents:
            return
        print("| Python | extra | packages | MB | jax |\n|---|---|---:|---:|---|")
        for python in arguments.python or ["python3"]:
            install(python, wheel, Path(scratch))


def build(scratch: Path) -> Path:
    """Build the sdist, and from it the wheel; check their files.

    Returns:
        The wheel.
    """
    source, dist = scratch / "source", scratch / "dist"
    ignored = shutil.ignore_patterns(*IGNORED)
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)
    run([sys.executable, "-m", "venv", str(scratch / "build")], scratch)
    python = str(scratch / "build" / "bin" / "python")
    run([python, "-m", "pip", "install", "--quiet", "build"], scratch)
    run([python, "-m", "build", "--outdir", str(dist), str(source)], scratch)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    expected = data_files(source)
    with zipfile.ZipFile(wheel) as files:
        refuse_missing(wheel, expected, files.namelist())
    with tarfile.open(sdist) as files:
        names = [name.partition("/")[2] for name in files.getnames()]
    refuse_missing(sdist, {*expected, "LICENSE", "README.md", "pyproject.toml"}, names)
    for path in (wheel, sdist):
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB", file=sys.stderr)
    return wheel


def data_files(source: Path) -> set[str]:
    """Files of the package that are not modules, such as `targetsft_jax/py.typed`."""
    package = source / "targetsft_jax"
    # The configurations are behind a symbolic link, which rglob does not follow.
    folders = (package, *(path for path in package.iterdir() if path.is_symlink()))
    files = (path for folder in folders for path in folder.rglob("*"))
    return {
        path.relative_to(source).as_posix()
        for path in files
        if path.is_file() and not path.name.endswith(UNSHIPPED)
    }


def refuse_missing(path: Path, expected: set[str], names: Sequence[str]) -> None:
    """Exit if an archive lacks one of the expected files."""
    missing = sorted(expected - set(names))
    if missing or len(expected) < 20:
        sys.exit(f"{path.name} lacks {', '.join(missing) or 'nearly everything'}")


def install(interpreter: str, wheel: Path, scratch: Path) -> None:
    """Install the wheel with each extra in turn; print a row of the table for each."""
    folder = scratch / Path(interpreter).name
    run([interpreter, "-m", "venv", str(folder)], scratch)
    python = str(folder / "bin" / "python")
    for extra in EXTRAS:
        package = f"{wheel}[{extra}]" if extra else str(wheel)
        run([python, "-m", "pip", "install", "--quiet", package], scratch)
        for command in COMMANDS if extra else (*COMMANDS, QUICKSTART):
            program, *arguments = command.split()
            run([str(folder / "bin" / program), *arguments], folder)
        if not extra:
            run([python, "-c", IMPORTS], folder)
        print(f"| {row(python, folder / 'lib', extra)} |", flush=True)
    package = f"{wheel}[{RESOLVED_ONLY}]"
    run([python, "-m", "pip", "install", "--quiet", "--dry-run", package], scratch)


def row(python: str, folder: Path, extra: str) -> str:
    """Cells of the table: Python, extra, packages, megabytes, jax."""
    names = run([python, "-m", "pip", "list", "--format=freeze"], folder).splitlines()
    versions = dict(name.split("==", 1) for name in names if "==" in name)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    version = run([python, "--version"]).split()[1]
    extra = f"+ `{extra}`" if extra else "none"
    cells = (version, extra, len(versions), f"{size / 1e6:,.0f}", versions["jax"])
    return " | ".join(map(str, cells))


def run(command: list[str], folder: Path = ROOT) -> str:
    """Run a command and return its output; exit with its errors if it fails."""
    environment = {**os.environ, "PYTHONPATH": "", "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True
    )
    if result.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
    return result.stdout


if __name__ == "__main__":
    main()
