"""Files of wheel and sdist: declared in pyproject.toml, and missed if absent."""

import runpy
import tomllib
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"][
    "setuptools"
]


@pytest.fixture(scope="module")
def packages() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(ROOT / ".ci" / "packages.py")))


def declared(path: PurePosixPath) -> bool:
    """True if a pattern of the package data matches."""
    for package, patterns in SETUPTOOLS["package-data"].items():
        folder = PurePosixPath(package.replace(".", "/"))
        if path.is_relative_to(folder):
            relative = path.relative_to(folder)
            lengths = {len(PurePosixPath(pattern).parts) for pattern in patterns}
            if len(relative.parts) in lengths and any(map(relative.match, patterns)):
                return True
    return False


def test_every_file_beside_the_modules_is_package_data(packages) -> None:
    files = packages.data_files(ROOT)
    assert {
        "targetsft_jax/py.typed",
        "targetsft_jax/configs/quickstart.yaml",
        "targetsft_jax/configs/compare/quickstart.yaml",
        "targetsft_jax/data/templates/qwen_boxed.jinja",
        "targetsft_jax/inspection/template/page.html.jinja",
    } <= files
    assert not [name for name in files if not declared(PurePosixPath(name))]


def test_an_archive_without_one_of_the_files_is_refused(packages) -> None:
    files = packages.data_files(ROOT)
    packages.refuse_missing(Path("complete.whl"), files, [*files, "more.py"])
    with pytest.raises(SystemExit, match=r"x\.whl lacks targetsft_jax/py\.typed"):
        names = sorted(files - {"targetsft_jax/py.typed"})
        packages.refuse_missing(Path("x.whl"), files, names)
