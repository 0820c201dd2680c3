"""Checksummed folders of .npy arrays, written atomically and read memory-mapped."""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.storage import atomic

MANIFEST = "manifest.json"
"""File that is written last; without it a folder is incomplete."""

_HEADER_BYTES = 128


class Damaged(ValueError):
    """Folder with a missing, truncated or altered file."""


class Writer:
    """Incremental writer of arrays, none of which is in memory in full."""

    def __init__(self, folder: Path, open_files: contextlib.ExitStack):
        self._folder = folder
        self._open_files = open_files
        self._files: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, np.dtype]] = {}

    def append(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Append one-dimensional parts to arrays; the dtype of an array is constant."""
        for name, values in arrays.items():
            if name not in self._files:
                file = (self._folder / f"{name}.npy").open("wb")
                self._files[name] = self._open_files.enter_context(file)
                self._shapes[name] = (0, values.dtype)
                self._write_header(name)
            size, dtype = self._shapes[name]
            assert values.ndim == 1 and values.dtype == dtype, name
            self._files[name].write(np.ascontiguousarray(values).data)
            self._shapes[name] = (size + len(values), dtype)

    def close(self, about: Mapping[str, Any]) -> None:
        """Complete the files and write the manifest, which contains `about`."""
        files = {}
        for name, file in self._files.items():
            file.seek(0)
            self._write_header(name)
            file.close()
            path = self._folder / f"{name}.npy"
            files[path.name] = [path.stat().st_size, _digest(path)]
        manifest = {"files": files, "about": dict(about)}
        # ASCII: a path or name may have characters that UTF-8 lacks.
        text = json.dumps(manifest, indent=2)
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = self._folder / MANIFEST
        path.write_text(f"{digest}\n{text}", encoding="utf-8")

    def _write_header(self, name: str) -> None:
        # The header leaves room for its first axis to grow, so it can be overwritten.
        size, dtype = self._shapes[name]
        header = {"descr": dtype.str, "fortran_order": False, "shape": (size,)}
        np.lib.format.write_array_header_1_0(self._files[name], header)


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Writer]:
    """Context of a `Writer`, whose folder appears when the block ends without error.

    Of several writers of one folder the first to finish wins: the content is a function
    of the folder's name.
    """
    with (
        atomic.folder(folder, replace=False) as partial,
        contextlib.ExitStack() as open_files,
    ):
        yield Writer(partial, open_files)


def read(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """The arrays, memory-mapped, and `about`; None if the folder does not exist.

    Raises:
        Damaged: a file is missing, or its size or SHA-256 differs from the manifest.
    """
    if not folder.is_dir():
        return None
    try:
        digest, _, text = (folder / MANIFEST).read_text("utf-8").partition("\n")
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise Damaged(f"{folder / MANIFEST} fails its checksum")
        manifest = json.loads(text)
        arrays = {}
        for name, (size, expected) in manifest["files"].items():
            path = folder / name
            if path.stat().st_size != size:
                raise Damaged(
                    f"{path} has {path.stat().st_size:,} bytes; expected {size:,}"
                )
            if _digest(path) != expected:
                raise Damaged(f"{path} fails its checksum")
            # Empty arrays cannot be mapped.
            mapped = size > _HEADER_BYTES
            arrays[path.stem] = np.load(
                path, mmap_mode="r" if mapped else None, allow_pickle=False
            )
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{folder}: {error}") from error
    return arrays, manifest["about"]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
