"""SIGTERM handling: schedulers send it some time before they kill a job."""

import signal
import threading
from types import FrameType, TracebackType

from targetsft_jax.command import Stopped


class Preempted(Stopped):
    """The run stopped on SIGTERM, with a checkpoint of its last step.

    Attributes:
        step: the last optimizer step; its checkpoint is complete.
    """

    def __init__(self, step: int):
        super().__init__(
            f"stopped after step {step} (checkpoint saved); rerun the same command to "
            "resume"
        )
        self.step = step


class StopSignal:
    """Context manager that records the first SIGTERM instead of ending the process.

    A second SIGTERM ends the process, as without this context.

    Attributes:
        requested: True if this process has received SIGTERM.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: object = None

    def __enter__(self) -> "StopSignal":
        # Only the main thread may set handlers.
        if self._in_main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._record)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._in_main_thread():
            self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        """Reinstate the handler of before this context."""
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)  # type: ignore[arg-type]

    def _in_main_thread(self) -> bool:
        return threading.current_thread() is threading.main_thread()
