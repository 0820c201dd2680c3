"""Goodput: share of a run's wall time spent in steps; lost time by cause."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from targetsft_jax.storage.atomic import write_text
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.compilation_cache import program_counts

CAUSES = {
    "start": "from loading the student to the first step",
    "restart": "the same in a resumed session, plus the repeated steps",
    "compile": "first call of the step in a session",
    "data": "waiting for a batch; the devices may still be busy with the previous "
    "step, so this is an upper bound",
    "save": "time that the loop is blocked by a checkpoint",
    "validation": "measuring the held-out loss",
}
"""Wall time outside of steps: cause -> description for the documentation."""


class Clock:
    """Wall time of a run by cause, over all of its sessions.

    Neither the time between sessions nor the last second of a killed session counts.

    Args:
        run_dir: run directory; its `goodput` file is read and updated.
        resumed: add to the times of earlier sessions.
        redone: seconds of the steps that this session repeats.
        began: `time.perf_counter()` at the start of the session; None: now.
    """

    def __init__(
        self,
        run_dir: RunDir,
        *,
        resumed: bool = False,
        redone: float = 0.0,
        began: float | None = None,
    ):
        now = time.perf_counter()
        self._path = run_dir.goodput
        sessions, seconds = _read(run_dir) if resumed else (0, {})
        self.sessions = sessions + 1
        self._lost = dict.fromkeys(CAUSES, 0.0) | seconds
        self._earlier_steps = self._lost.pop("steps", 0.0) - redone
        self._lost["restart"] += redone
        self._began = now if began is None else began
        self._lost["restart" if resumed else "start"] += now - self._began
        self._lost_earlier = sum(self._lost.values()) - (now - self._began)
        self._written = 0.0

    @contextmanager
    def lost_to(self, cause: str) -> Iterator[None]:
        """Count the time inside the context under one of CAUSES."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._lost[cause] += time.perf_counter() - start

    def lost(self, *causes: str) -> float:
        """Return the seconds lost to `causes` (default: all), over all sessions."""
        return sum(self._lost[cause] for cause in causes or CAUSES)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of `steps` and of each cause in CAUSES, over all sessions."""
        session = time.perf_counter() - self._began
        steps = self._earlier_steps + session - (self.lost() - self._lost_earlier)
        return {"steps": max(0.0, steps), **self._lost}

    @property
    def goodput(self) -> float:
        """Share of the wall time spent in steps, in [0, 1]."""
        seconds = self.seconds
        return seconds["steps"] / max(sum(seconds.values()), 1e-9)

    def write(self, *, now: bool = False) -> None:
        """Write the file, at most once per second unless `now`."""
        moment = time.perf_counter()
        if not now and moment - self._written < 1:
            return
        self._written = moment
        rounded = {cause: round(s, 3) for cause, s in self.seconds.items()}
        tree = {"sessions": self.sessions, "seconds": rounded}
        text = json.dumps(tree | {"programs": program_counts()}) + "\n"
        write_text(self._path, text)

    def summary(self) -> str:
        """Format as `goodput 93.1% of 120 s (lost to: compile 4.0%, data 1.2%)`."""
        seconds = self.seconds
        total = max(sum(seconds.values()), 1e-9)
        lost = sorted(((self._lost[cause], cause) for cause in CAUSES), reverse=True)
        parts = [f"{cause} {s / total:.1%}" for s, cause in lost if s / total >= 5e-4]
        causes = f" (lost to: {', '.join(parts)})" if parts else ""
        share = f"goodput {seconds['steps'] / total:.1%} of {total:.0f} s{causes}"
        return share + _programs_text(program_counts())


def read_seconds(run_dir: RunDir) -> dict[str, float]:
    """Read the seconds of a run by cause; empty without a readable file."""
    return _read(run_dir)[1]


def _programs_text(counts: Mapping[str, int]) -> str:
    """Format as `; 3 of 14 programs from the cache`; empty without large programs."""
    total = sum(counts.values())
    return f"; {counts['cached']} of {total} programs from the cache" if total else ""


def _read(run_dir: RunDir) -> tuple[int, dict[str, float]]:
    """Read number and seconds of earlier sessions; (0, {}) for a damaged file."""
    try:
        stored = json.loads(run_dir.goodput.read_text(encoding="utf-8"))
        times = {"steps": stored["seconds"]["steps"]}
        times |= {cause: stored["seconds"].get(cause, 0.0) for cause in CAUSES}
        seconds = {key: float(value) for key, value in times.items()}
        if all(0 <= value < math.inf for value in seconds.values()):
            return int(stored["sessions"]), seconds
    except (OSError, ArithmeticError, ValueError, LookupError, TypeError):
        pass
    except (AttributeError, RecursionError):
        pass
    return 0, {}
