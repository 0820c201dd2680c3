"""Environments of peers: one virtual environment per set of packages, made once."""

import subprocess
import venv
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path("~/.cache/targetsft_jax/peers").expanduser()
"""Default folder of the environments and of clones."""


def interpreter(
    folder: Path,
    packages: Sequence[str],
    *,
    without: Sequence[str] = (),
    editable: Path | None = None,
) -> Path:
    """Python of the environment with these packages, installed on the first use.

    Args:
        folder: folder of the environments.
        packages: pip requirements, such as "trl==1.16.0"; they name the environment.
        without: dependencies that are uninstalled again.
        editable: source of a package that is installed with them; entry points are
            those of this folder at every use.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    home = folder / "-".join(packages).replace("==", "_")
    python = home / "bin/python"
    if not (home / "complete").exists():
        print(f"installing {', '.join(packages)} in {home}", flush=True)
        venv.create(home, with_pip=True, clear=True)
        source = [] if editable is None else ["-e", str(editable)]
        install = [python, "-m", "pip", "install", "-q", *packages, *source]
        subprocess.run(install, check=True)
        if without:
            remove = [python, "-m", "pip", "uninstall", "-q", "-y", *without]
            subprocess.run(remove, check=True)
        (home / "complete").touch()
    elif editable is not None:
        again = [python, "-m", "pip", "install", "-q", "--no-deps", "-e", editable]
        subprocess.run(again, check=True)
    return python


def published_file(folder: Path, repository: str, commit: str, path: str) -> str:
    """Text of a file of a GitHub repository at a commit, cloned on the first use.

    Args:
        folder: folder of the clones, which have no work tree.
        repository: "owner/name".
        commit: hexadecimal id.
        path: file inside the repository.

    Raises:
        subprocess.CalledProcessError: git failed, for instance without a network.
    """
    home = folder / f"{repository.replace('/', '+')}.git"
    if not home.exists():
        url = f"https://github.com/{repository}"
        subprocess.run(["git", "clone", "-q", "--bare", url, home], check=True)
    show = ["git", "-C", str(home), "show", f"{commit}:{path}"]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout
