"""A folder of arrays with a manifest: whole and as it was written, or not there."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

_MANIFEST = "manifest.json"


class Damaged(ValueError):
    """A folder whose files are not those that were written."""


class Writer:
    """Takes arrays in parts of any number, so that no whole one is in memory."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._files: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, np.dtype]] = {}

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Adds to the ends of some arrays, each of one axis and always one dtype."""
        for name, values in arrays.items():
            if name not in self._files:
                self._files[name] = open(self._folder / f"{name}.npy", "wb")
                self._shapes[name] = (0, values.dtype)
                self._head(name)
            size, dtype = self._shapes[name]
            assert values.ndim == 1 and values.dtype == dtype, name
            self._files[name].write(np.ascontiguousarray(values).data)
            self._shapes[name] = (size + len(values), dtype)

    def close(self, about: Mapping[str, Any]) -> None:
        """Completes the files and writes the manifest, `about` in it."""
        files = {}
        for name, file in self._files.items():
            file.seek(0)
            self._head(name)
            file.flush()
            os.fsync(file.fileno())
            file.close()
            path = self._folder / f"{name}.npy"
            files[path.name] = [path.stat().st_size, _digest(path)]
        manifest = {"files": files, "about": dict(about)}
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = self._folder / _MANIFEST
        path.write_text(f"{digest}\n{text}", encoding="utf-8")

    def _head(self, name: str) -> None:
        # The header leaves room for its first axis to grow, so it can be written again.
        size, dtype = self._shapes[name]
        described = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(self._files[name], described)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """A writer of a folder that appears when the block ends, and not if it fails.

    Several processes may write the same folder at once: one of them wins, which is
    no matter, since what is written follows from the folder's name.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        yield Writer(partial)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Arrays, memory-mapped, and what was said about them; None where no folder is.

    Raises:
        Damaged: a file is missing, or its size or its sha256 is another.
    """
    if not folder.is_dir():
        return None
    try:
        digest, _, text = (folder / _MANIFEST).read_text("utf-8").partition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise Damaged(f"{folder / _MANIFEST} was changed")
        manifest = json.loads(text)
        arrays = {}
        for name, (size, expected) in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != size:
                found = path.stat().st_size
                raise Damaged(f"{path} has {found:,} bytes; expected {size:,}")
            if _digest(path) != expected:
                raise Damaged(f"{path} was changed")
            # Empty files cannot be mapped.
            mapped = None if size <= 128 else "r"
            arrays[path.stem] = np.load(path, mmap_mode=mapped, allow_pickle=False)
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{folder}: {error}") from error
    return arrays, manifest["about"]


def put_away(folder: Path) -> None:
    """Removes a damaged folder; others may do so at the same time."""
    away = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    with contextlib.suppress(OSError):
        os.rename(folder, away / "damaged")
    shutil.rmtree(away, ignore_errors=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
