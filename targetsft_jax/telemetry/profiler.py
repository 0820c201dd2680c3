"""Profiler window: trace a few steps for TensorBoard's profiler."""

from pathlib import Path
from typing import Any

import jax

from targetsft_jax.storage.run_dir import RunDir


class ProfilerWindow:
    """Trace of devices and host during consecutive steps, in `run_dir.profile`.

    Args:
        run_dir: run directory.
        first: first step of the window; None: no trace.
        steps: number of steps in the window.
    """

    def __init__(self, run_dir: RunDir, first: int | None, steps: int):
        self._folder = run_dir.profile
        self._first = first
        self._end = None if first is None else first + steps
        self._running = False

    def before(self, step: int) -> None:
        """Start the trace at the first step of the window; call before dispatch."""
        if step == self._first:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, outputs: Any) -> Path | None:
        """End the trace at the last step of the window; call after dispatch.

        Args:
            step: dispatched step.
            outputs: arrays of the step, awaited before the trace ends.

        Returns:
            Folder of the written trace, else None.
        """
        if not self._running or self._end is None or step < self._end - 1:
            return None
        # Dispatch is asynchronous: wait for the window's work on the devices.
        jax.block_until_ready(outputs)
        return self.close()

    def close(self) -> Path | None:
        """Write an open trace and return its folder; None if no trace is open."""
        if not self._running:
            return None
        self._running = False
        jax.profiler.stop_trace()
        return self._folder
