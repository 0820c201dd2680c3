"""Memory-mapped tensors of a checkpoint's safetensors files."""

import mmap
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from targetsft_jax.storage import json_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Dtypes of weights, by their names in the files."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a mapped file; `rows` returns views, which are read on access.

    Attributes:
        shape: stored shape.
        dtype: name in the file, such as "BF16".
        start: offset of its first byte in the file, in bytes.
        file: the mapped file.
    """

    shape: tuple[int, ...]
    dtype: str
    start: int
    file: mmap.mmap

    def rows(self, start: int, stop: int) -> np.ndarray:
        """View [stop - start, ...] of the mapped file, for a dtype of `DTYPES`."""
        dtype, offset = DTYPES[self.dtype], self.start + start * self._row_bytes
        shape = (stop - start, *self.shape[1:])
        count = int(np.prod(shape))
        return np.frombuffer(self.file, dtype, count, offset).reshape(shape)

    def release(self, start: int, stop: int) -> None:
        """Release the pages of these rows from the memory of the process.

        A later access reads them again, from the page cache or from disk.
        """
        if not hasattr(mmap, "MADV_DONTNEED"):  # Linux has it
            return
        first = self.start + start * self._row_bytes
        first -= first % mmap.PAGESIZE
        length = self.start + stop * self._row_bytes - first
        self.file.madvise(mmap.MADV_DONTNEED, first, length)

    @property
    def _row_bytes(self) -> int:
        return int(np.prod(self.shape[1:])) * DTYPES[self.dtype].itemsize


def open_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Map every tensor of a folder's safetensors files, by key; reads headers only.

    Links are followed, since hub snapshots consist of links.

    Raises:
        FileNotFoundError: no safetensors in the folder, or files that the index names
            are absent (all of them in one message).
        ValueError: damaged or truncated files, or index entries other than safetensors
            files in the folder (all of them in one message).
    """
    weight_map = _weight_map(folder)
    names = [SINGLE_FILE] if weight_map is None else sorted(set(weight_map.values()))
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise FileNotFoundError(
            f"{folder}: {', '.join(absent)} does not exist, but {INDEX_FILE} names it; "
            "download the checkpoint again."
        )
    tensors: dict[str, StoredTensor] = {}
    damaged = []
    for name in names:
        try:
            content = open_tensor_file(folder / name)
        except ValueError as error:
            damaged.append(str(error))
            continue
        for key, tensor in content.items():
            # Tensors missing in the index are included, to be reported as unexpected.
            if weight_map is None or weight_map.get(key, name) == name:
                tensors[key] = tensor
    if damaged:
        raise ValueError("; ".join(damaged) + "; download again.")
    return tensors


def open_tensor_file(path: Path) -> dict[str, StoredTensor]:
    """Map the tensors of one safetensors file, by key.

    Format: header length (u64, little endian), JSON header, raw tensors.

    See https://github.com/huggingface/safetensors#format.

    Raises:
        ValueError: a damaged or truncated file.
    """
    try:
        with safe_open(path, framework="numpy") as checked:
            checked.keys()  # validates header, offsets and length
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or incomplete ({error})") from None
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json_file.parse(file.read(length), f"the header of {path}")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    header.pop("__metadata__", None)
    return {
        key: StoredTensor(
            tuple(entry["shape"]),
            entry["dtype"],
            8 + length + entry["data_offsets"][0],
            mapped,
        )
        for key, entry in header.items()
    }


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Index, key -> file name; None for a checkpoint in a single file."""
    if (folder / SINGLE_FILE).is_file():
        return None
    path = folder / INDEX_FILE
    if not path.is_file():
        names = sorted(p.name for p in folder.glob("*") if p.is_file())
        pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
        raise FileNotFoundError(
            f"{folder} contains neither {SINGLE_FILE} nor {INDEX_FILE}"
            + (
                f", only pickle files ({', '.join(pickles[:3])}), which can run code "
                "when opened; convert them to safetensors with transformers "
                "(save_pretrained)."
                if pickles
                else f" (found: {', '.join(names[:8]) or 'nothing'})."
            )
        )
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict):
        raise ValueError(f"{path} has no weight_map; download it again.")
    problems = []
    for key, name in weight_map.items():
        pure = PurePosixPath(str(name))
        if not isinstance(name, str) or len(name) > 255 or "\0" in name:
            problems.append(f"{key} points to {str(name)[:40]!r}, not a file name")
        elif pure.is_absolute() or ".." in pure.parts or "\\" in str(name):
            problems.append(
                f"{key} points to {name!r}, outside the checkpoint's folder"
            )
        elif pure.suffix != ".safetensors":
            problems.append(f"{key} points to {name!r}, not a safetensors file")
    if problems:
        raise ValueError(
            f"{path}: expected names of safetensors files in its own folder only:\n  "
            + "\n  ".join(problems)
        )
    return weight_map


def read_json(path: Path) -> dict:
    """Read a JSON object from a file.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: the file is not JSON within the limits of `storage.json_file`, or
            not an object.
    """
    try:
        return json_file.read_object(path)
    except ValueError as error:
        raise ValueError(f"{error}; download it again.") from None
