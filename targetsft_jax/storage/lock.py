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
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path

# Empty after a kill before the owner was written.
_OWNER = re.compile(r"(process \d+ on .* since [-\d: ]+\n?)?")
_NO_FILE = (errno.ELOOP, errno.EISDIR)
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
        FileExistsError: its name is taken by something else than a lock.
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
        file, owner = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = owner or os.pread(file, 200, 0).decode("utf-8", "replace").strip()
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


def _open(path: Path) -> tuple[int, str]:
    """Descriptor of the file, created if absent, and the owner in it."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    foreign = FileExistsError(
        f"{path} exists and is not the lock of a run, which would replace it; move it, "
        "or choose another folder"
    )
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        raise (foreign if error.errno in _NO_FILE else error) from None
    regular = stat.S_ISREG(os.fstat(file).st_mode)
    text = os.pread(file, 1000, 0).decode("utf-8", "replace") if regular else "?"
    if not _OWNER.fullmatch(text):
        os.close(file)
        raise foreign
    return file, text.strip()


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
