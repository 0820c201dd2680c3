"""Signed manifest of a folder: size and SHA-256 of every file, and of the manifest.

It proves that a folder is as its writer completed it: nothing was added, changed or
damaged since. Only such a folder may be replaced, and only such a one is complete.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from targetsft_jax.storage import atomic
from targetsft_jax.storage.location import Location

FILE = "targetsft_manifest.json"
_ABOUT = "Files of this folder as targetsft-jax wrote them: [bytes, SHA-256]."


def write(folder: Path) -> None:
    """Write the manifest of a complete folder."""
    files = {name: _entry(folder / name) for name in sorted(_names(folder))}
    _write(folder, {"about": _ABOUT, "files": files})


def replace_texts(folder: Path, texts: Mapping[str, str]) -> None:
    """Replace or add text files of an intact folder, whose other files are not read.

    The folder is intact by its manifest at every moment, also after a kill: during the
    replacement the manifest has both versions of each file.

    Args:
        folder: a folder with a manifest.
        texts: relative path -> content.

    Raises:
        ValueError: the folder has no readable manifest.
    """
    files = _read(folder)
    if files is None:
        raise ValueError(
            f"{folder / FILE} is missing or damaged; expected a folder that this "
            "package wrote"
        )
    contents = {name: text.encode() for name, text in texts.items()}
    new = {
        name: [len(content), hashlib.sha256(content).hexdigest()]
        for name, content in contents.items()
    }
    _write(folder, {"about": _ABOUT, "files": files, "next": new})
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(folder / name, text)
    _write(folder, {"about": _ABOUT, "files": {**files, **new}})


def names(folder: Path) -> list[str]:
    """Relative paths of the files of an intact folder, without the manifest."""
    return [name for name in _read(folder) or {} if not name.endswith("/")]


def sizes(text: str) -> dict[str, int]:
    """Bytes of each file by the text of a manifest; empty if it is damaged."""
    entries = _parse(text)
    return {name: size for name, (size, _) in (entries or {}).items()}


def differences(folder: Path, *, missing: bool = True, added: bool = True) -> list[str]:
    """Differences of a folder from its manifest, in words; empty for an intact one.

    Args:
        folder: an existing folder.
        missing: report files that are missing too.
        added: report files that are not in the manifest too.
    """
    files, following = _read(folder), _read(folder, "next") or {}
    if files is None:
        return [f"{FILE} is missing or damaged"]
    names = set(_names(folder))
    new = sorted(names - files.keys() - following.keys()) if added else []
    found = [f"{name} is not in its manifest" for name in new]
    for name in [*files, *(following.keys() - files.keys())]:
        entries = [part[name] for part in (files, following) if name in part]
        if name in names:
            if all(_entry(folder / name, entry[0]) != entry for entry in entries):
                found.append(f"{name} was changed")
        elif name not in files:
            continue
        elif missing:
            found.append(f"{name} is missing")
    return found


def check_replaceable(
    folder: Path, sources: Mapping[str, Location] | None = None
) -> None:
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


def check_apart(folder: Location, sources: Mapping[str, Location]) -> None:
    """Check that writing a folder replaces none of the files that are read meanwhile.

    Args:
        folder: the folder to write.
        sources: name -> file or folder that is read.

    Raises:
        FileExistsError: a source is the folder, or in it.
    """
    target = _real(folder)
    for name, source in sources.items():
        if target in (_real(source), *_real(source).parents):
            raise FileExistsError(
                f"{folder} would replace the {name}, {source}; choose another folder"
            )


def _real(path: Location) -> Location:
    """Path without links; an object store has none."""
    return path.resolve() if isinstance(path, Path) else path


def _names(folder: Path) -> Iterator[str]:
    """Relative paths of all files and empty folders, without the manifest.

    Temporary files of writers that were killed are left out.
    """
    for path in folder.rglob("*"):
        if atomic.is_partial(path.name):
            continue
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


def _write(folder: Path, tree: dict[str, Any]) -> None:
    text = json.dumps(tree | {"sha256": _digest(tree)}, indent=2, ensure_ascii=False)
    atomic.write_text(folder / FILE, text + "\n")


def _read(folder: Path, part: str = "files") -> dict[str, list[Any]] | None:
    """Entries of a part of the manifest; None if it cannot be read or has none."""
    try:
        return _parse((folder / FILE).read_text("utf-8"), part)
    except (OSError, ValueError):
        return None


def _parse(text: str, part: str = "files") -> dict[str, list[Any]] | None:
    try:
        tree = json.loads(text)
        signature = tree.pop("sha256")
        return dict(tree[part]) if signature == _digest(tree) else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
