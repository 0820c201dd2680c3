"""Full disks: detection by error, and the text of the warning."""

import errno
import logging

import pytest

from targetsft_jax.command import Stopped
from targetsft_jax.storage import disk_full


@pytest.mark.parametrize(
    "error, expected",
    [
        (OSError(errno.ENOSPC, "x"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (ValueError("RESOURCE_EXHAUSTED: write: No space left on device"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (None, False),
    ],
)
def test_errors_of_a_full_disk(error, expected):
    assert disk_full.lacks_space(error) == expected


def test_an_error_that_a_full_disk_caused():
    for link in ("__cause__", "__context__"):
        wrapped = RuntimeError("save failed")
        setattr(wrapped, link, OSError(errno.ENOSPC, "x"))
        assert disk_full.lacks_space(wrapped)


@pytest.mark.parametrize(
    "required, latest, parts",
    [
        (400_000, 1, ["about 400 kB required", "checkpoint 1 is intact"]),
        (0, None, ["free); there is none yet"]),
        (3 * 10**13, 0, ["about 30 TB required", "checkpoint 0 is intact"]),
    ],
)
def test_the_warning(tmp_path, required, latest, parts):
    text = disk_full.warning(2, tmp_path, required, latest)
    assert text.startswith(f"checkpoint 2 was not saved: no space left for {tmp_path}")
    for part in [*parts, "the save is retried"]:
        assert part in text


def test_the_traces_of_a_library_are_dropped(caplog):
    logger = logging.getLogger("library")
    logger.addFilter(disk_full.REPORTED_ELSEWHERE)
    for error in (OSError(errno.ENOSPC, "x"), OSError(errno.EIO, "Input/output error")):
        try:
            raise error
        except OSError:
            logger.exception("a thread failed")
    logger.error("RESOURCE_EXHAUSTED: No space left on device")
    logger.error("NOT_FOUND: Error writing run/checkpoints/2.orbax-checkpoint-tmp/x")
    try:
        raise Stopped("stopped by SIGTERM while a thread was joined")
    except Stopped:
        logger.exception("a thread failed")
    assert [record.exc_info[1].errno for record in caplog.records] == [errno.EIO]
