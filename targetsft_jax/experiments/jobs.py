"""Run the entries of a comparison in several processes, each on its share of the cores.

Small models train faster this way: a step of theirs does not fill several cores.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, TypeVar

from targetsft_jax.command import UsageError

T = TypeVar("T")


def run_jobs(arguments: Sequence[str], jobs: int) -> int:
    """Run a comparison's command in several processes and print their lines.

    Args:
        arguments: arguments of the command; each process adds its `--part`.
        jobs: number of processes.

    Returns:
        The largest exit code; when one fails, the others finish their part.
    """
    cores = sorted(os.sched_getaffinity(0))
    started: list[subprocess.Popen] = []
    printing: list[threading.Thread] = []
    try:
        for number in range(1, jobs + 1):
            job = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "targetsft_jax.compare",
                    *arguments,
                    f"--part={number}/{jobs}",
                ],
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            started.append(job)
            if share := cores[number - 1 :: jobs]:
                # Before its first computation, which counts the cores.
                os.sched_setaffinity(job.pid, share)
            assert job.stdout is not None
            thread = threading.Thread(target=_print_lines, args=(number, job.stdout))
            thread.start()
            printing.append(thread)
        codes = [job.wait() for job in started]
    finally:
        _stop(started)
        for thread in printing:
            thread.join()
    return max(code if code >= 0 else 128 - code for code in codes)


def part_of(items: Sequence[T], part: str | None) -> list[T]:
    """Return the items of one part.

    Args:
        items: all items.
        part: "2/3" for the second of three parts; None for all items.

    Raises:
        UsageError: not a part.
    """
    if part is None:
        return list(items)
    number, _, parts = part.partition("/")
    if not (number.isdecimal() and parts.isdecimal()):
        raise UsageError(f"--part is {part!r}; expected NUMBER/PARTS such as 1/2")
    if not 1 <= int(number) <= int(parts) <= 1024:
        raise UsageError(f"--part is {part}; expected 1/{parts} to {parts}/{parts}")
    return list(items[int(number) - 1 :: int(parts)])


def _print_lines(number: int, stream: IO[str]) -> None:
    with stream:
        for line in stream:
            print(f"job {number} {line}", end="", flush=True)


def _stop(jobs: Sequence[subprocess.Popen]) -> None:
    """Stop the processes that still run; each saves first."""
    for job in jobs:
        if job.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                job.send_signal(signal.SIGTERM)
    for job in jobs:
        job.wait()
