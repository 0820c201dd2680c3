"""A window of steps recorded for TensorBoard's profiler."""

from pathlib import Path
from typing import Any

import jax

FOLDER = "profile"


class Profile:
    """Records what devices and host do during some steps, into RUN/profile.

    Args:
        run_dir: the run's.
        first: the first step recorded; None records nothing.
        steps: how many.
    """

    def __init__(self, run_dir: Path, first: int | None, steps: int):
        self._folder = run_dir / FOLDER
        self._first = first
        self._end = None if first is None else first + steps
        self._running = False

    def before(self, step: int) -> None:
        """Called before step `step` is given to the devices."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, made: Any) -> Path | None:
        """Called with what the step made; where the profile is, once it is written."""
        if not self._running or self._end is None or step < self._end - 1:
            return None
        # The devices are behind the host: what they are at belongs to the window.
        jax.block_until_ready(made)
        return self.close()

    def close(self) -> Path | None:
        """Writes what there is, if a window is open."""
        if not self._running:
            return None
        self._running = False
        jax.profiler.stop_trace()
        return self._folder
