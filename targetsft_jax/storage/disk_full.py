"""Full disks: detection, warning, and retry intervals of saves."""

import errno
import logging
import shutil
from pathlib import Path

RETRY_SECONDS = 60
"""Seconds until a save that ran out of space is retried, unless one is due earlier."""

LAST_SAVE_SECONDS, LAST_SAVE_INTERVAL = 300, 10
"""Seconds for which the last save of a run is retried, and between attempts."""

_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
# Errors of C++ libraries have the text only.
_MESSAGES = ("no space left on device", "disk quota exceeded")
# Of a thread that still wrote a half-written checkpoint while it was removed.
_REMOVED, _TEMPORARY = ("not_found", "no such file"), ".orbax-checkpoint-tmp"


def lacks_space(error: BaseException | None) -> bool:
    """True if an error, or one of its causes, is that of a full disk or quota."""
    if error is None:
        return False
    text = str(error).lower()
    if getattr(error, "errno", None) in _ERRNOS or any(m in text for m in _MESSAGES):
        return True
    return lacks_space(error.__cause__ or error.__context__)


class ReportedElsewhere(logging.Filter):
    """Drops a library's traces of errors that its caller reports in one line.

    They are full disks with their consequences, and signals, whose exceptions derive
    from BaseException alone.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """True for records about anything else."""
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and not isinstance(error, Exception):
            return False
        message = f"{record.getMessage()} {error or ''}".lower()
        is_removed = _TEMPORARY in message and any(t in message for t in _REMOVED)
        is_full = lacks_space(error) or any(text in message for text in _MESSAGES)
        return not (is_full or is_removed)


REPORTED_ELSEWHERE = ReportedElsewhere()


def free_bytes(folder: Path) -> int:
    """Free bytes of the file system that a folder is on."""
    return shutil.disk_usage(folder).free


def warning(step: int, folder: Path, required: int, latest: int | None) -> str:
    """Warning about a checkpoint that was not saved for lack of space.

    Args:
        step: optimizer step of the checkpoint.
        folder: the folder of the checkpoints.
        required: bytes of the checkpoint, or 0 if unknown.
        latest: step of the newest complete checkpoint, if any.
    """
    size = f", about {_size(required)} required" if required else ""
    before = "there is none yet" if latest is None else f"checkpoint {latest} is intact"
    return (
        f"checkpoint {step} was not saved: no space left for {folder} "
        f"({_size(free_bytes(folder))} free{size}); {before}. Free some space: the "
        "save is retried"
    )


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
