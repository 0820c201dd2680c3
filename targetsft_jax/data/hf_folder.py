"""Locate the files of a split in a folder of `datasets` or of the Hugging Face hub."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from targetsft_jax.data.sources import refuse_missing_shards

_SPLIT_FILE = re.compile(
    r"(?P<split>\w+?)(-\d{5}-of-\d{5})?\.(parquet|jsonl|jsonl\.gz|json|json\.gz)"
)

# Usual names of splits.
_SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")


def split_files(folder: str, split: str | None) -> list[str]:
    """List the files of a split, in order, for `sources.read_files`.

    Args:
        folder: written by `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or
            with files in the hub's layout such as `data/train-00000-of-00002.parquet`.
        split: name of the split; None: `train`, or the only one.

    Raises:
        ValueError: another layout, no such split, or a missing file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{folder}: no such folder; check data.path")
    if (root / "dataset_dict.json").is_file():
        path = root / "dataset_dict.json"
        names = _sibling_names(path, _read(path).get("splits"))
        return _arrow_files(root / _choose(names, split, folder))
    if (root / "state.json").is_file():
        name = str(_read(root / "state.json").get("_split") or "train")
        _choose([name], split, folder)
        return _arrow_files(root)
    return _hub_files(root, split)


def has_splits(folder: Path) -> bool:
    """True for a folder of `datasets`, or one whose files have names of splits."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    names = (path.name for part in (folder, folder / "data") for path in part.glob("*"))
    matches = filter(None, map(_SPLIT_FILE.fullmatch, names))
    return any(match["split"] in _SPLITS for match in matches)


def _choose(names: Sequence[str], split: str | None, folder: str) -> str:
    choice = split or ("train" if len(names) != 1 else names[0])
    if choice not in names:
        existing = ", ".join(sorted(names)) or "none"
        raise ValueError(
            f"{folder}: no split {choice!r}; it has {existing}: set data.split to one"
        )
    return choice


def _arrow_files(folder: Path) -> list[str]:
    if not (folder / "state.json").is_file():
        raise ValueError(
            f"{folder / 'state.json'} is missing: the folder is not complete"
        )
    path = folder / "state.json"
    entries = _read(path).get("_data_files")
    if not isinstance(entries, list):
        entries = []
    names = [e.get("filename") if isinstance(e, dict) else e for e in entries]
    files = [folder / name for name in _sibling_names(path, names)]
    missing = [file for file in files if not file.is_file()]
    if missing or not files:
        which = missing[0] if missing else folder / "*.arrow"
        raise ValueError(f"{which} is missing, of {len(files)} files in state.json")
    return [str(file) for file in files]


def _hub_files(root: Path, split: str | None) -> list[str]:
    by_split: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        match = _SPLIT_FILE.fullmatch(path.name)
        folders = path.relative_to(root).parts[:-1]
        if match and path.is_file() and not any(p.startswith(".") for p in folders):
            by_split.setdefault(match["split"], []).append(path)
    if not by_split:
        raise ValueError(
            f"{root}: expected a folder written by save_to_disk (dataset_dict.json or"
            " state.json), or files such as data/train-00000-of-00001.parquet"
        )
    files = by_split[_choose(list(by_split), split, str(root))]
    parents = sorted({str(path.parent) for path in files})
    if len(parents) > 1:
        raise ValueError(
            f"{root}: the split is in several folders, {', '.join(parents)}; set"
            " data.path to one of them"
        )
    refuse_missing_shards(map(str, files))
    return [str(path) for path in files]


def _sibling_names(path: Path, names: object) -> list[str]:
    """Check names listed in a JSON file: each must be in the same folder."""
    siblings: list[str] = []
    for name in names if isinstance(names, list) else [names]:
        if (
            not isinstance(name, str)
            or name in ("", ".", "..")
            or Path(name).name != name
        ):
            raise ValueError(
                f"{path} names {name!r}; expected a name in the same folder: the"
                " folder is damaged"
            )
        siblings.append(name)
    return siblings


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON ({error}); the folder is damaged") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object; the folder is damaged")
    return content
