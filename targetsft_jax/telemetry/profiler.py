"""Profiler window: trace a few steps for TensorBoard's profiler."""

from pathlib import Path
from typing import Any

import jax

from targetsft_jax.storage.run_dir import RunDir


class ProfilerWindow:
    """Trace devices and host during consecutive steps, into `run_dir.profile`.

    Args:
        run_dir: the run directory.
        first: first step of the window; None: no trace.
        steps: length of the window.
    """

    def __init__(self, run_dir: RunDir, first: int | None, steps: int):
        self._folder = run_dir.profile
        self._first = first
        self._end = None if first is None else first + steps
        self._running = False

    def before(self, step: int) -> None:
        """Start the trace if `step`, about to be dispatched, opens the window."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, outputs: Any) -> Path | None:
        """End the trace if `step`, just dispatched, closes the window.

        Returns:
            The folder of the trace once it is written, else None.
        """
        if not self._running or self._end is None or step < self._end - 1:
            return None
        # Devices run behind the host: their pending work belongs to the window.
        jax.block_until_ready(outputs)
        return self.close()

    def close(self) -> Path | None:
        """Write an open trace; returns its folder, None where no trace is open."""
        if not self._running:
            return None
        self._running = False
        jax.profiler.stop_trace()
        return self._folder
