"""Where the wall time of a run goes: into steps, or what it is lost to."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targetsft_jax.storage.atomic import write_text

FILE = "goodput.json"

LOSSES = ("start", "restart", "compile", "data", "save", "validation")
"""What is not a step. start: from the loading of the student to the first step.
restart: the same when a run goes on, and the steps that it takes again. compile: the
first call of the step. data: waiting for a batch (the devices may still be at work on
the step before, so that this is the most that was lost). save: what a checkpoint keeps
the loop from. validation: measuring on held-out data."""


class Clock:
    """Seconds of a run by what they went into, over all of its sessions.

    Time between two sessions is not counted, nor what a killed one did in its last
    second.

    Args:
        run_dir: FILE in it is read and kept up to date.
        resumed: whether this session goes on with a run.
        redone: seconds of the steps that it will take again.
        began: `time.perf_counter()` when this session began; now, unless given.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        resumed: bool = False,
        redone: float = 0.0,
        began: float | None = None,
    ):
        now = time.perf_counter()
        self._path = run_dir / FILE
        before = _read(self._path) if resumed else {"sessions": 0, "seconds": {}}
        self.sessions = before["sessions"] + 1
        self._lost = dict.fromkeys(LOSSES, 0.0) | before["seconds"]
        self._steps_before = self._lost.pop("steps", 0.0) - redone
        self._lost["restart"] += redone
        self._began = now if began is None else began
        self._lost["restart" if resumed else "start"] += now - self._began
        self._lost_before = sum(self._lost.values()) - (now - self._began)
        self._written = 0.0

    @contextmanager
    def lost_to(self, cause: str) -> Iterator[None]:
        """Counts the time inside as lost to one of LOSSES."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._lost[cause] += time.perf_counter() - start

    def lost(self, *causes: str) -> float:
        """Seconds lost so far to some causes, or to all, over all sessions."""
        return sum(self._lost[cause] for cause in causes or LOSSES)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of `steps` and of each of LOSSES, over all sessions."""
        here = time.perf_counter() - self._began
        steps = self._steps_before + here - (self.lost() - self._lost_before)
        return {"steps": max(0.0, steps), **self._lost}

    @property
    def goodput(self) -> float:
        """The share of steps in all of it."""
        seconds = self.seconds
        return seconds["steps"] / max(sum(seconds.values()), 1e-9)

    def write(self, *, now: bool = False) -> None:
        """Keep the file up to date: at once, or if it is a second old."""
        moment = time.perf_counter()
        if not now and moment - self._written < 1:
            return
        self._written = moment
        rounded = {cause: round(s, 3) for cause, s in self.seconds.items()}
        text = json.dumps({"sessions": self.sessions, "seconds": rounded}) + "\n"
        write_text(self._path, text)

    def line(self) -> str:
        """`goodput 93.1 % of 120 s (compile 4.0 %, data 1.2 %)`."""
        seconds = self.seconds
        total = max(sum(seconds.values()), 1e-9)
        lost = sorted(((self._lost[cause], cause) for cause in LOSSES), reverse=True)
        parts = [f"{cause} {s / total:.1%}" for s, cause in lost if s / total >= 5e-4]
        causes = f" (lost to: {', '.join(parts)})" if parts else ""
        return f"goodput {seconds['steps'] / total:.1%} of {total:.0f} s{causes}"


def read(run_dir: Path) -> dict[str, float] | None:
    """Seconds by cause of a run, as its clock left them; None where it has none."""
    path = run_dir / FILE
    return _read(path)["seconds"] if path.exists() else None


def _read(path: Path) -> dict:
    """What was kept, or a fresh start: a damaged file costs no training."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        seconds = {key: float(value) for key, value in kept["seconds"].items()}
        return {"sessions": int(kept["sessions"]), "seconds": seconds}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"sessions": 0, "seconds": {}}
