"""Lock on a folder: one owner at a time, released by the kernel when its process ends.

The lock is an advisory one (`flock`) on a file in the folder, whose text names the
owner for the message of a refusal. It is held per open file: two owners in one process
exclude each other too.
"""

import contextlib
import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


class LockedError(OSError):
    """The folder has another owner."""


@contextlib.contextmanager
def hold(path: Path) -> Iterator[bool]:
    """Own the folder of a lock file inside the block; the file is removed at its end.

    Args:
        path: the lock file; its folder is created, and removed at the end if it is new
            and still empty.

    Yields:
        False if the file system has no locks, so that other owners are not excluded.

    Raises:
        LockedError: another process owns the folder; names it.
        OSError: the folder cannot be created or written.
    """
    new = _make_folders(path.parent)
    try:
        file = _acquire(path)
    except BaseException:
        _remove_empty(new)
        raise
    try:
        yield file is not None
    finally:
        if file is not None:
            # Removed while held: whoever opened the file meanwhile sees that it is no
            # longer the one at the path, and opens the next one.
            path.unlink(missing_ok=True)
            os.close(file)
        _remove_empty(new)


def _acquire(path: Path) -> int | None:
    """Descriptor of the locked file; None if the file system has no locks."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = os.read(file, 200).decode("utf-8", "replace").strip()
            os.close(file)
            if error.errno in _UNSUPPORTED:
                path.unlink(missing_ok=True)
                return None
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise LockedError(
                f"{path.parent} is in use by {owner or 'another process'}; wait for "
                "its end, or choose another folder"
            ) from None
        if _is_at(path, file):
            break
        os.close(file)
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.ftruncate(file, 0)
    text = f"process {os.getpid()} on {platform.node()} since {since}\n"
    with contextlib.suppress(OSError):
        # A full disk: the lock holds, without the name of its owner.
        os.write(file, text.encode())
    return file


def _is_at(path: Path, file: int) -> bool:
    """True if an open file is still the one at a path."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _make_folders(folder: Path) -> list[Path]:
    """Create a folder and its parents; the new ones, innermost first."""
    new = []
    while not folder.exists():
        new.append(folder)
        folder = folder.parent
    for path in reversed(new):
        path.mkdir(exist_ok=True)
    return new


def _remove_empty(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):
        for path in folders:
            path.rmdir()
