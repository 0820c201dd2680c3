"""The sizes of the loss, the clock, and how much a process grows; Linux only.

Imported first by every worker: with BENCHMARK_CLOCK=cpu, what a loop takes for the
time is the CPU seconds of its process, which other work on the machine leaves alone.
"""

import gc
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

if os.environ.get("BENCHMARK_CLOCK") == "cpu":
    time.perf_counter = time.process_time

N, V, WIDTHS, SEED = 2048, 32_768, (256, 384), 0


def growth(run: Callable[[], object]) -> float:
    """MiB between what the process holds before and the most it holds during `run`."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1])
