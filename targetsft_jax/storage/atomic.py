"""Atomic text files and folders: written under a temporary name, then renamed.

A target is never half-written, even if its writer is killed at any moment: it is the
complete old one or the complete new one. Temporary names are unique per writer, so that
writers of one target do not collide: with `replace` the last to finish wins, without it
the first.
"""

import contextlib
import ctypes
import errno
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

STALE_SECONDS = 24 * 60 * 60
"""Age from which a leftover of another host counts as abandoned."""

# renameat2 of Linux exchanges two names atomically.
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
# Names of other origin, such as `.NAME.old-2026`, are those of the user.
_WRITER = re.compile(r"-[0-9a-f]{8}-\d+-\d*-[0-9a-f]{8}")
_OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Safe against a kill of the process at any moment, but not synced to disk, since a
    run calls it about once per second.
    """
    with file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def file(target: Path) -> Iterator[Path]:
    """A temporary path of a file that becomes `target` at the end of the block."""
    _clear_leftovers(target)
    partial = _sibling(target, "partial")
    try:
        yield partial
        os.replace(partial, target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def folder(
    target: str | Path,
    check: Callable[[Path], None] | None = None,
    *,
    replace: bool = True,
) -> Iterator[Path]:
    """A temporary folder that becomes `target` at the end of the block.

    If the block raises, the target stays as it was and the temporary folder is removed.

    Args:
        target: the folder to write.
        check: raises if the target must not be replaced.
        replace: replace an existing target; otherwise the existing one stays.
    """
    target = Path(target).resolve()
    partial = begin(target, check)
    try:
        yield partial
        finish(partial, target, check, replace=replace)
    finally:
        abandon(partial)


def begin(target: Path, check: Callable[[Path], None] | None = None) -> Path:
    """Create an empty temporary sibling of `target` to write into.

    Removes leftovers of dead writers next to the target, and restores the target if a
    kill between the two renames of `finish` has left it under another name.

    Args:
        target: the folder to write.
        check: raises if the target must not be replaced.
    """
    restore(target)
    if check is not None:
        check(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(target)
    partial = _sibling(target, "partial")
    partial.mkdir()
    return partial


def finish(
    complete: Path,
    target: Path,
    check: Callable[[Path], None] | None = None,
    *,
    replace: bool = True,
) -> None:
    """Sync a complete folder to disk and rename it to `target`.

    Where the file system cannot exchange two names, an existing target is first renamed
    to a sibling; `begin` and `restore` rename it back after a kill in between.

    Args:
        complete: a folder on the same file system as the target, such as the one that
            `begin` returned or a folder in it.
        target: its new name.
        check: raises if the target must not be replaced; since `begin`, someone else
            may have written there.
        replace: replace an existing target; otherwise `complete` is removed.
    """
    for path in (*complete.rglob("*"), complete):
        _sync(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Repeated as long as other writers of the same target interfere.
    while not _rename_to_free(complete, target):
        if not replace:
            break
        if check is not None:
            check(target)
        if _exchange(complete, target) or _replace_in_two(complete, target):
            break
    _sync(target.parent)
    abandon(complete)
    restore(target)


def abandon(partial: Path) -> None:
    """Remove a temporary folder, if it exists."""
    shutil.rmtree(partial, ignore_errors=True)


def discard(target: Path) -> None:
    """Remove a folder atomically; several processes may do so at once."""
    _remove(target, target)


def set_aside(path: Path, name: Path | None = None) -> Path | None:
    """Rename a damaged file or folder to a free name, so that nothing is lost.

    Args:
        path: the file or folder.
        name: preferred name; None: the name with the suffix `.damaged`. A number is
            appended if it is taken.

    Returns:
        Its new name; None if another process has moved it.
    """
    preferred = name or path.with_name(f"{path.name}.damaged")
    free, number = preferred, 1
    while os.path.lexists(free):
        number += 1
        free = preferred.with_name(f"{preferred.name}-{number}")
    free.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(path, free)
    except FileNotFoundError:
        return None
    return free


def former(target: Path) -> Path | None:
    """Complete folder under the temporary name of a killed `finish`, or None."""
    return None if target.exists() else max(_olds(target), key=_changed, default=None)


def restore(target: Path) -> None:
    """Rename a target back after a kill between the two renames of `finish`.

    If the target exists, leftovers of such kills are removed.
    """
    olds = _olds(target)
    if (newest := former(target)) is not None:
        # Harmless if the writer is alive after all: it starts another round.
        with contextlib.suppress(OSError):
            os.rename(newest, target)
    elif target.exists():
        # Listed before the target was seen, so each of them is superseded.
        for old in olds:
            _remove(old, target)


def is_partial(name: str) -> bool:
    """True for the name of a temporary file or folder of this module."""
    prefix, separator, writer = name.partition(".partial")
    return bool(separator) and prefix[:1] == "." and bool(_WRITER.fullmatch(writer))


def _rename_to_free(complete: Path, target: Path) -> bool:
    """Rename if the target is absent or an empty folder; True on success."""
    try:
        os.rename(complete, target)
    except OSError as error:
        if error.errno in _OCCUPIED:
            return False
        raise
    return True


def _replace_in_two(complete: Path, target: Path) -> bool:
    """Replace the target by two renames; False if another writer interfered."""
    old = _sibling(target, "old")
    try:
        os.rename(target, old)
    except FileNotFoundError:
        return False
    try:
        done = _rename_to_free(complete, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.rename(old, target)
        raise
    _remove(old, target)
    return done


def _remove(folder: Path, target: Path) -> None:
    """Rename a folder to a temporary sibling of the target, and remove it.

    A half-removed folder is thus never taken for the `former` one, and after a kill the
    next writer removes the rest.
    """
    removed = _sibling(target, "partial")
    with contextlib.suppress(OSError):
        os.rename(folder, removed)
    abandon(removed)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names; True on success, since few file systems support it."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    return not rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)


def _sync(path: Path) -> None:
    """Flush a file or folder to disk, so that no name appears before its content."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sibling(target: Path, kind: str) -> Path:
    """A new name next to the target: `.NAME.KIND-MACHINE-PID-START-RANDOM`."""
    pid = os.getpid()
    writer = f"{_machine()}-{pid}-{_start_time(pid)}-{secrets.token_hex(4)}"
    return target.with_name(f".{target.name}.{kind}-{writer}")


def _siblings(target: Path, kind: str) -> list[Path]:
    prefix = f".{target.name}.{kind}"
    try:
        names = os.listdir(target.parent)
    except OSError:
        return []
    return [
        target.with_name(name)
        for name in names
        if name.startswith(prefix) and _WRITER.fullmatch(name, len(prefix))
    ]


def _olds(target: Path) -> list[Path]:
    return _siblings(target, "old")


def _clear_leftovers(target: Path) -> None:
    """Remove temporary siblings of dead writers."""
    for path in _siblings(target, "partial"):
        if not _is_abandoned(path):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()


def _is_abandoned(path: Path) -> bool:
    """True if the writer is dead, or on another host and idle for `STALE_SECONDS`."""
    machine, pid, start = (["", "", ""] + path.name.split("-")[-4:-1])[-3:]
    if machine == _machine() and pid.isdecimal():
        return _start_time(int(pid)) != start
    return time.time() - max(map(_changed, (path, *path.rglob("*")))) > STALE_SECONDS


def _changed(path: Path) -> float:
    """Time of the last change in seconds; the present if the path is gone."""
    try:
        return path.lstat().st_ctime
    except OSError:
        return time.time()


@functools.cache
def _machine() -> str:
    """Hash of host, boot and PID namespace, within which process ids are unique."""
    identity = platform.node()
    with contextlib.suppress(OSError):
        identity += Path("/proc/sys/kernel/random/boot_id").read_text()
        identity += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(identity.encode()).hexdigest()[:8]


def _start_time(pid: int) -> str:
    """Start time of a process, since its id may be reused; empty if it is dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        # A zombie writes no more, so it counts as dead.
        return "" if fields[0] in "XZ" else fields[19]
    except (OSError, IndexError):
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    # Alive, or of another user; without /proc its start is unknown.
    return "0"
