"""Files of a source: files as listed, those of a folder, and matches of a pattern."""

import glob
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from targetsft_jax.data.config import SourceConfig, paths
from targetsft_jax.data.hf_folder import has_splits, split_files
from targetsft_jax.data.sources import KINDS, existing_files, refuse_missing_shards
from targetsft_jax.storage.access import check_access
from targetsft_jax.storage.local_copy import copy_file, copy_folder
from targetsft_jax.storage.location import is_url, local_folder
from targetsft_jax.storage.object_store import matches
from targetsft_jax.storage.user_path import user_path

_JSON = (".jsonl", ".jsonl.gz", ".json", ".json.gz")
_SUFFIXES = {"files": KINDS, "jsonl": _JSON, "parquet": (".parquet",)}
# Of a folder of objects: data, and what describes its splits.
_COPIED = (*KINDS, ".json")
_PATTERN = re.compile(r"[*?\[]")
# Names in a report or error.
_NAMES = 10


@dataclass(frozen=True)
class Files:
    """Files of a source, in the order in which they are read."""

    paths: list[str]
    left_out: list[str] = field(default_factory=list)
    """Names in a folder that are not read, such as README.md."""

    def __str__(self) -> str:
        text = f"{len(self.paths):,}"
        if len(self.paths) > 1:
            text += f": {Path(self.paths[0]).name} … {Path(self.paths[-1]).name}"
        if self.left_out:
            text += f" (not read: {_listed(self.left_out)})"
        return text


def list_files(config: SourceConfig) -> Files:
    """List the files of a source.

    Args:
        config: a source of another kind than `synthetic` and `tfds`.

    Returns:
        The listed files in their order, those of a folder and matches of a pattern
        sorted by name.

    Raises:
        ValueError: a file, a match of a pattern or a shard is missing; a folder has no
            file of the kind, or its split is missing.
    """
    files, left_out = [], []
    for path in paths(config):
        expanded = _expand(str(_local(path, config)), config)
        files += expanded.paths
        left_out += expanded.left_out
    return Files(files, left_out)


def _expand(path: str, config: SourceConfig) -> Files:
    if config.kind == "hf_dataset" or Path(path).is_dir():
        return _of_folder(Path(path), config)
    if not _PATTERN.search(path) or Path(path).exists():
        return Files(list(existing_files(path)))
    names = sorted(glob.glob(path, recursive=True))
    if not names:
        _no_match(path)
    refuse_missing_shards(names)
    return Files(list(existing_files(names)))


def _local(path: str, config: SourceConfig) -> Path:
    """Local path of a file, folder or pattern; of a URL, that of its copies."""
    if not is_url(path):
        return user_path(path)
    url = path.rstrip("/")
    if _PATTERN.search(url):
        check_access("data.path", url)
        copies = [copy_file(match, "data.path") for match in matches(url)]
        # The pattern selects the same names below the folder of the copies.
        return local_folder("copies", url) if copies else _no_match(path)
    try:
        return copy_file(url, "data.path")
    except FileNotFoundError:
        return copy_folder(url, "data.path", lambda name: name.endswith(_COPIED))


def _no_match(path: str) -> NoReturn:
    raise ValueError(f"{path}: no file matches the pattern; check data.path")


def _of_folder(folder: Path, config: SourceConfig) -> Files:
    by_split = config.kind == "hf_dataset"
    if config.kind == "files":
        by_split = config.split is not None or has_splits(folder)
    suffixes = _SUFFIXES.get(config.kind, KINDS)
    visible: list[Path] = []
    if folder.is_dir():
        visible = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    if by_split:
        files = split_files(str(folder), config.split)
    else:
        files = [str(p) for p in visible if p.name.endswith(suffixes) and p.is_file()]
    top = {Path(file).relative_to(folder).parts[0] for file in files}
    left_out = [p.name + "/" * p.is_dir() for p in visible if p.name not in top]
    if not files:
        raise ValueError(
            f"{folder} has no file whose name ends in {', '.join(suffixes)}; it has"
            f" {_listed(left_out) or 'nothing'}: check data.path, or use a pattern such"
            f" as {folder / '**' / '*.jsonl'}"
        )
    refuse_missing_shards(files)
    return Files(files, left_out)


def _listed(names: list[str]) -> str:
    text = ", ".join(names[:_NAMES])
    return text if len(names) <= _NAMES else f"{text} and {len(names) - _NAMES} more"
