"""Loss sizes, clock, and memory growth of a process; Linux only.

Every worker imports this first: with PERF_CLOCK=cpu, `time.perf_counter` is replaced by
the CPU time of the process, which does not depend on other work on the machine.
"""

import gc
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

if os.environ.get("PERF_CLOCK") == "cpu":
    time.perf_counter = time.process_time

N, V, WIDTHS, SEED = 2048, 32_768, (256, 384), 0


def growth(run: Callable[[], object]) -> float:
    """MiB from the resident memory before `run` to its peak during `run`."""
    gc.collect()
    reset_peak()
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1024


def reset_peak() -> None:
    """Start a new measurement of `peak_gib`."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_gib() -> float:
    """Largest resident memory of the process since `reset_peak`, in GiB."""
    return _resident("VmHWM") / 2**20


def _resident(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    match = re.search(rf"{name}:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1])
