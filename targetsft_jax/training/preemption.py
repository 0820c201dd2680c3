"""Being told to stop: SIGTERM, as schedulers send it some time before they kill."""

import signal
import threading
from types import FrameType, TracebackType

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run has stopped because it was told to; what it has done is saved.

    Attributes:
        step: the last one, whose checkpoint is complete.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped after step {step}, which is saved")
        self.step = step


class StopSignal:
    """While it is entered, SIGTERM is noted and does not end the process.

    A second one does, as ever. In a job of several processes jax notes the signal in
    any of them, and all stop after the same step.
    """

    def __init__(self) -> None:
        self._noted = False
        self._before: object = None

    def __enter__(self) -> "StopSignal":
        # Signals are the main thread's, and jax's own where there are many processes.
        if self._ours():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._ours():
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]

    def noted(self, step: int) -> bool:
        """Whether to stop after this step; asked once a step, in every process."""
        if jax.process_count() > 1:
            return bool(multihost_utils.reached_preemption_sync_point(step))
        return self._noted

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = True
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]

    def _ours(self) -> bool:
        main = threading.current_thread() is threading.main_thread()
        return main and jax.process_count() == 1
