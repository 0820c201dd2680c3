"""A folder that appears complete, or not at all."""

import contextlib
import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# renameat2 of Linux: two names change places at one instant.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


@contextlib.contextmanager
def whole(folder: str | Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """A new folder to write into, which becomes `folder` at the end of the block.

    Args:
        folder: the target.
        check: raises where the target holds what may not be replaced.
    """
    target = Path(folder).resolve()
    partial = begin(target, check)
    try:
        yield partial
        finish(target)
    except BaseException:
        abandon(target)
        raise


def begin(folder: Path, check: Callable[[Path], None]) -> Path:
    """An empty sibling to write into, where the folder may be written at all.

    What an interrupted export left beside it is cleared away first.
    """
    partial, old = _siblings(folder)
    if old.exists() and not folder.exists():
        # A kill between the two renames of `finish`, where names cannot be exchanged.
        os.rename(old, folder)
    check(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def finish(folder: Path) -> None:
    """Give the folder's name to what was written beside it, at one instant.

    Where the system cannot exchange two names, an existing folder is renamed first; a
    kill between the two leaves it as `.NAME.old`, and `begin` puts it back.
    """
    partial, old = _siblings(folder)
    for path in (*partial.rglob("*"), partial):
        _to_disk(path)
    shutil.rmtree(old, ignore_errors=True)
    if not folder.exists() or not any(folder.iterdir()):
        os.rename(partial, folder)
    elif _exchange(partial, folder):
        os.rename(partial, old)
    else:
        os.rename(folder, old)
        try:
            os.rename(partial, folder)
        except OSError:
            os.rename(old, folder)
            raise
    _to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def abandon(folder: Path) -> None:
    """Remove what was written so far."""
    shutil.rmtree(_siblings(folder)[0], ignore_errors=True)


def _siblings(folder):
    return tuple(
        folder.with_name(f".{folder.name}.{kind}") for kind in ("partial", "old")
    )


def _exchange(one, other):
    """Whether the two names have changed places; not every file system can."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return not rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)


def _to_disk(path):
    """Wait until it is on the disk, so that no name appears before what it names."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
