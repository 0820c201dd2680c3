"""Signed manifest of a folder: size and SHA-256 of every file, and of the manifest.

It proves that a folder is as its writer completed it: nothing was added, changed or
damaged since. Only such a folder may be replaced, and only such a one is complete.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILE = "targetsft_manifest.json"
_ABOUT = "Files of this folder as targetsft-jax wrote them: [bytes, SHA-256]."


def write(folder: Path) -> None:
    """Write the manifest of a complete folder."""
    files = {name: _entry(folder / name) for name in sorted(_names(folder))}
    tree = {"about": _ABOUT, "files": files}
    text = json.dumps(tree | {"sha256": _digest(tree)}, indent=2, ensure_ascii=False)
    (folder / FILE).write_text(text + "\n", encoding="utf-8")


def differences(folder: Path, *, missing: bool = True, added: bool = True) -> list[str]:
    """Differences of a folder from its manifest, in words; empty for an intact one.

    Args:
        folder: an existing folder.
        missing: report files that are missing too.
        added: report files that are not in the manifest too.
    """
    files = _read(folder)
    if files is None:
        return [f"{FILE} is missing or damaged"]
    names = set(_names(folder))
    new = sorted(names - files.keys()) if added else []
    found = [f"{name} is not in its manifest" for name in new]
    for name, entry in files.items():
        if name in names:
            if _entry(folder / name, entry[0]) != entry:
                found.append(f"{name} was changed")
        elif missing:
            found.append(f"{name} is missing")
    return found


def check_replaceable(folder: Path, sources: Mapping[str, Path] | None = None) -> None:
    """Check that a folder may be replaced: absent, empty, or intact by its manifest.

    Files of it may be missing, since nothing is lost with them.

    Args:
        folder: the folder to write.
        sources: name -> file or folder that is read meanwhile; none may be in `folder`.

    Raises:
        FileExistsError: anything else; names the files.
    """
    check_apart(folder, sources or {})
    if not folder.is_symlink() and not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(
            f"{folder} exists and is not a folder; pass a folder that does not exist"
        )
    if not any(folder.iterdir()):
        return
    found = differences(folder, missing=False)
    if found:
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        raise FileExistsError(
            f"{folder} exists and would be replaced, but it is not as this package "
            f"wrote it: {'; '.join(found[:5])}{more}. Move it, or pass another folder"
        )


def check_apart(folder: Path, sources: Mapping[str, Path]) -> None:
    """Check that writing a folder replaces none of the files that are read meanwhile.

    Args:
        folder: the folder to write.
        sources: name -> file or folder that is read.

    Raises:
        FileExistsError: a source is the folder, or in it.
    """
    target = folder.resolve()
    for name, source in sources.items():
        if target in (source.resolve(), *source.resolve().parents):
            raise FileExistsError(
                f"{folder} would replace the {name}, {source}; choose another folder"
            )


def _names(folder: Path) -> Iterator[str]:
    """Relative paths of all files and empty folders, without the manifest."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if name != FILE and (path.is_symlink() or not path.is_dir()):
            yield name
        elif path.is_dir() and not any(path.iterdir()):
            yield f"{name}/"


def _entry(path: Path, size: int | None = None) -> list[Any]:
    """Bytes and SHA-256; without SHA-256 for another size, and for a link or folder."""
    if path.is_symlink() or not path.is_file():
        return [0, ""]
    found = path.stat().st_size
    if size is not None and found != size:
        return [found, ""]
    with path.open("rb") as file:
        return [found, hashlib.file_digest(file, "sha256").hexdigest()]


def _read(folder: Path) -> dict[str, list[Any]] | None:
    try:
        tree = json.loads((folder / FILE).read_text("utf-8"))
        signature = tree.pop("sha256")
        if signature != _digest(tree):
            return None
        return dict(tree["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
