"""Teacher cache: a teacher's distribution at each trained token of a data set.

A folder with a signed `teacher_cache.yaml`, which names the examples, tokenizer,
teacher and settings, and one checksummed folder of arrays per shard. A shard has
some examples, each with one entry per trained token. Attention never leaves an example,
so an entry does not depend on how examples are packed: the cache serves every packing,
order, batch size and number of epochs of the same examples.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from targetsft_jax.data.examples import MASK, TOKENS, Arrays, Examples
from targetsft_jax.data.fingerprint import fingerprint
from targetsft_jax.data.packing import RowLayout
from targetsft_jax.storage import array_folder, atomic, signed_text

FILE = "teacher_cache.yaml"
HEAD, CONFIG = "head", "config.json"
"""Folder of the teacher's head, and its config, beside hidden states."""

TOP_K, STATES = "top_k", "hidden_states"
KINDS = (TOP_K, STATES)
TRAIN, VALIDATION = "data", "validation"
"""Folders of the training data, and of `validation.data`, in a cache."""

PREFIX = "teacher_"
"""Prefix of the arrays of a batch."""

# Incremented when equal inputs result in other entries.
_VERSION = 1


@dataclass(frozen=True)
class Column:
    """An array of the cache.

    Attributes:
        stored, dtype: dtype on disk, and in a batch.
        wide: True for `CacheHeader.width` numbers per entry, False for one.
    """

    stored: np.dtype
    dtype: np.dtype
    wide: bool


_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)

COLUMNS: Mapping[str, Mapping[str, Column]] = {
    TOP_K: {
        "ids": Column(np.dtype(np.int32), np.dtype(np.int32), wide=True),
        # 11 bits: less than 0.1 % of a probability, far below what the tail loses.
        "log_probs": Column(np.dtype(np.float16), np.dtype(np.float16), wide=True),
        "log_rest": Column(np.dtype(np.float32), np.dtype(np.float32), wide=False),
    },
    # npy files have no bfloat16.
    STATES: {"states": Column(np.dtype(np.uint16), _BFLOAT16, wide=True)},
}
"""Kind -> its arrays by name."""


@dataclass(frozen=True)
class CacheHeader:
    """Contents of a teacher cache.

    Attributes:
        kind: one of `KINDS`.
        width: numbers per entry: k, or the width of the hidden states.
        shards: number of shards.
        identity: name -> value of everything that determines the entries, and that a
            run can compare.
        about: name -> value of the rest, such as the dtype of the teacher.
    """

    kind: str
    width: int
    shards: int
    identity: Mapping[str, Any]
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> Mapping[str, Column]:
        """Arrays by name."""
        return COLUMNS[self.kind]

    @property
    def names(self) -> list[str]:
        """Names of the arrays of a batch."""
        return [PREFIX + name for name in self.columns]

    @property
    def entry_bytes(self) -> int:
        """Bytes on disk per trained token."""
        return sum(
            column.stored.itemsize * (self.width if column.wide else 1)
            for column in self.columns.values()
        )

    def entry_shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array's part of one entry."""
        return (self.width,) if self.columns[name].wide else ()

    def __str__(self) -> str:
        if self.kind == TOP_K:
            return f"top {self.width} tokens"
        return f"hidden states of width {self.width}"

    def write(self, folder: Path) -> None:
        """Write the signed file."""
        folder.mkdir(parents=True, exist_ok=True)
        tree = {"version": _VERSION, **vars(self)}
        signed_text.write(folder / FILE, json.dumps(tree, indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "CacheHeader | None":
        """Read the signed file; None if there is none.

        Raises:
            ValueError: a file that was changed, or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            return None
        text = signed_text.read(path)
        tree = {"version": None} if text is None else json.loads(text)
        if tree.pop("version") != _VERSION:
            found = "was changed" if text is None else "is of another version"
            raise ValueError(
                f"{path} {found}; make the teacher cache again in another folder"
            )
        return cls(**tree)


def examples_digest(examples: Examples) -> str:
    """SHA-256 of tokens and loss masks, 64 hex digits.

    It is equal for equal data, tokenizer and chat template. Other columns do not change
    what a teacher predicts.
    """
    columns = examples.columns
    return fingerprint(
        {TOKENS: columns[TOKENS], MASK: columns[MASK], "lengths": examples.lengths}
    )


@dataclass(frozen=True)
class TeacherCache:
    """An opened teacher cache; its arrays are memory-mapped.

    Attributes:
        folder: the folder.
        header: its contents.
        shards: arrays of each shard, an entry per row.
        shard_of: [N] int, shard of each example; −1 for none.
        starts: [N] int, first entry of each example in its shard.
        counts: [N] int, entries of each example.
    """

    folder: Path
    header: CacheHeader
    shards: Sequence[Arrays]
    shard_of: np.ndarray
    starts: np.ndarray
    counts: np.ndarray

    def __str__(self) -> str:
        entries = int(self.counts.sum())
        size = entries * self.header.entry_bytes / 2**20
        return f"{self.header}, {entries:,} trained tokens, {size:,.1f} MiB"

    def take(self, examples: Examples, layout: RowLayout, rows: np.ndarray) -> Arrays:
        """Arrays [n, L, …] of the rows with indices [n], 0 where nothing is trained.

        An entry is at the position of its label, one before the token.
        """
        header = self.header
        shape = (len(rows), layout.row_length)
        arrays = {
            name: np.zeros((*shape, *header.entry_shape(name)), column.dtype)
            for name, column in header.columns.items()
        }
        mask = examples.columns[MASK]
        for i, row in enumerate(rows):
            at = 0
            part = layout.segments(int(row))
            numbers = layout.examples[part].tolist()
            for number, length in zip(numbers, layout.lengths[part].tolist()):
                start = int(examples.starts[number])
                trained = at + np.flatnonzero(mask[start + 1 : start + length])
                first = int(self.starts[number])
                shard = self.shards[self.shard_of[number]]
                for name, array in arrays.items():
                    entries = shard[name][first : first + len(trained)]
                    if array.dtype == _BFLOAT16:
                        entries = entries.view(_BFLOAT16)
                    array[i, trained] = entries
                at += length
        return {PREFIX + name: array for name, array in arrays.items()}

    def check_covers(self, examples: Examples, layout: RowLayout) -> None:
        """Check that every trained token of the rows has an entry.

        Raises:
            ValueError: an example without, or with fewer entries than trained tokens.
        """
        mask = examples.columns[MASK]
        for number, length in zip(layout.examples.tolist(), layout.lengths.tolist()):
            start = int(examples.starts[number])
            trained = int(np.count_nonzero(mask[start + 1 : start + length]))
            if self.counts[number] < trained:
                raise ValueError(
                    f"teacher.cache {self.folder} has {self.counts[number]} entries "
                    f"for {examples.origins[number]}, which has {trained} trained "
                    "tokens in its row: it was made with a smaller data.max_length, or "
                    "another data.overlong; make one with these settings in another "
                    "folder"
                )


def open_cache(
    folder: Path,
    examples: Examples,
    identity: Mapping[str, Any],
    command: str,
    copy_again: Callable[[], object] | None = None,
) -> TeacherCache:
    """Open a teacher cache, and check that it is complete, intact and that of a run.

    Args:
        folder: the folder.
        examples: the examples of the run.
        identity: identity of the run; the cache has these values, and may have more.
        command: the command that makes or completes the cache, for errors.
        copy_again: downloads missing files, if the folder is a copy of one in a store.

    Raises:
        ValueError: no cache, or an incomplete, damaged or different one.
    """
    header = CacheHeader.read(folder)
    if header is None:
        remedy = f"make the cache first: {command}"
        if (folder.parent / FILE).is_file():
            remedy = f"expected the folder above: {folder.parent.parent}"
        raise ValueError(
            f"teacher.cache is {str(folder)!r}, which has no {FILE}; {remedy}"
        )
    check_identity(folder, header, identity)
    shards: list[Arrays] = []
    for number in range(header.shards):
        try:
            shard = _copied_shard(folder, header, number, copy_again)
        except array_folder.Damaged as error:
            raise ValueError(
                f"teacher.cache is damaged: {error}. This command makes the shard "
                f"again: {command}"
            ) from None
        if shard is None:
            raise ValueError(
                f"teacher.cache {folder} is incomplete: {shard_folder(folder, number)}"
                f", one of {header.shards} shards, is missing. This command continues: "
                f"{command}"
            )
        shards.append(shard)
    size = len(examples)
    shard_of = np.full(size, -1, np.int64)
    starts, counts = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for number, shard in enumerate(shards):
        numbers, entries = shard["examples"], shard["counts"]
        shard_of[numbers] = number
        starts[numbers] = np.cumsum(entries) - entries
        counts[numbers] = entries
    return TeacherCache(folder, header, shards, shard_of, starts, counts)


def check_identity(
    folder: Path, header: CacheHeader, identity: Mapping[str, Any]
) -> None:
    """Check that a cache is that of a run.

    Raises:
        ValueError: another one; names what differs.
    """
    origin = header.about.get("teacher", "unknown")
    meanings = {
        "examples": " (digests: other rows, chat template or trained tokens)",
        "tokenizer": " (digests: another tokenizer)",
        "teacher": f" (digests: other weights than those of {origin})",
    }
    different = [
        f"{name} was {header.identity.get(name)!r} and is {value!r}"
        f"{meanings.get(name, '')}"
        for name, value in identity.items()
        if header.identity.get(name) != value
    ]
    if different:
        raise ValueError(
            f"teacher.cache {folder} was made for another run: "
            f"{'; '.join(different)}. Restore these, or choose another folder"
        )


def shard_folder(folder: Path, number: int) -> Path:
    """Folder of a shard's arrays."""
    return folder / "shards" / f"{number:05d}"


def read_shard(folder: Path, header: CacheHeader, number: int) -> Arrays | None:
    """Arrays of a shard, an entry per row; None if it does not exist.

    Raises:
        Damaged: it fails its checksums.
    """
    found = array_folder.read(shard_folder(folder, number))
    if found is None:
        return None
    arrays, _ = found
    for name in header.columns:
        arrays[name] = arrays[name].reshape(-1, *header.entry_shape(name))
    return arrays


def _copied_shard(
    folder: Path,
    header: CacheHeader,
    number: int,
    copy_again: Callable[[], object] | None,
) -> Arrays | None:
    """Arrays of a shard; a damaged copy is downloaded once more."""
    try:
        return read_shard(folder, header, number)
    except array_folder.Damaged:
        if copy_again is None:
            raise
        atomic.discard(shard_folder(folder, number))
        copy_again()
        return read_shard(folder, header, number)


def write_shard(
    folder: Path,
    header: CacheHeader,
    number: int,
    entries: Arrays,
    numbers: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Write a shard.

    Args:
        folder, header: the cache; number: of the shard.
        entries: arrays by name, an entry per row.
        numbers: [S] indices of its examples; counts: [S] entries of each.
    """
    arrays = {
        name: entries[name].reshape(-1).view(column.stored)
        for name, column in header.columns.items()
    }
    arrays |= {
        "examples": np.asarray(numbers, np.int64),
        "counts": np.asarray(counts, np.int64),
    }
    with array_folder.writing(shard_folder(folder, number)) as writer:
        writer.append(arrays)
        writer.close({"shard": number})
