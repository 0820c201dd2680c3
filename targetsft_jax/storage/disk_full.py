"""A disk that is full: how it is known, what is said, and how long it is waited for."""

import errno
import shutil
from pathlib import Path
from typing import Any

import jax

RETRY_SECONDS = 60
"""After a save that found no room; one that is due earlier is tried anyway."""

LAST_SECONDS, LAST_EVERY = 300, 10
"""How long the last save of a run waits for room, and how often it looks."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
# As libraries of C++ pass it on.
_SAYS = ("no space left on device", "disk quota exceeded")


def lacks_space(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, is that of a full disk or quota."""
    if error is None:
        return False
    number = getattr(error, "errno", None)
    if number in _FULL or any(words in str(error).lower() for words in _SAYS):
        return True
    return lacks_space(error.__cause__ or error.__context__)


def needed(tree: Any) -> int:
    """Bytes of a tree of arrays, over all devices."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def free(folder: Path) -> int:
    """Bytes free where a folder is."""
    return shutil.disk_usage(folder).free


def shortage(step: int, folder: Path, wanted: int, whole: int | None) -> str:
    """What to say of a checkpoint that found no room.

    Args:
        step: its step.
        folder: of the checkpoints.
        wanted: bytes that it needs, or 0 where that is not known.
        whole: the newest one that is complete.
    """
    size = f", about {_size(wanted)} are needed" if wanted else ""
    before = "none is there" if whole is None else f"checkpoint {whole} is whole"
    return (
        f"checkpoint {step} was not saved: no space left for {folder} "
        f"({_size(free(folder))} free{size}); {before}. Free some space: it is tried "
        f"again after {RETRY_SECONDS} s, or at the next save if that is earlier"
    )


def _size(count: int) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
