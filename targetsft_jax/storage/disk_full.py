"""Full disks: detection, the warning, and for how long a save is retried."""

import errno
import shutil
from pathlib import Path

RETRY_SECONDS = 60
"""From a save that ran out of space to the next attempt, unless one is due earlier."""

LAST_SAVE_SECONDS, LAST_SAVE_INTERVAL = 300, 10
"""For how long the last save of a run is retried, and how often."""

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# C++ libraries pass on the text alone.
_MESSAGES = ("no space left on device", "disk quota exceeded")


def lacks_space(error: BaseException | None) -> bool:
    """True if an error, or one that caused it, is that of a full disk or quota."""
    if error is None:
        return False
    text = str(error).lower()
    if getattr(error, "errno", None) in _ERRNOS or any(m in text for m in _MESSAGES):
        return True
    return lacks_space(error.__cause__ or error.__context__)


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that a folder is on."""
    return shutil.disk_usage(folder).free


def warning(step: int, folder: Path, required: int, latest: int | None) -> str:
    """The message about a checkpoint that ran out of space.

    Args:
        step: of the checkpoint.
        folder: the folder of the checkpoints.
        required: bytes of the checkpoint, or 0 if unknown.
        latest: step of the newest complete checkpoint, if any.
    """
    size = f", about {_size(required)} required" if required else ""
    before = "there is none yet" if latest is None else f"checkpoint {latest} is intact"
    return (
        f"checkpoint {step} was not saved: no space left for {folder} "
        f"({_size(free_bytes(folder))} free{size}); {before}. Free some space: the "
        f"save is retried after {RETRY_SECONDS} s, or when the next one is due"
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
