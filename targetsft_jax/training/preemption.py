"""Being told to stop: SIGTERM, as schedulers send it some time before they kill."""

import signal
import threading
from types import FrameType, TracebackType


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

    A second one does, as ever.

    Attributes:
        noted: whether this process was told to stop.
    """

    def __init__(self) -> None:
        self.noted = False
        self._before: object = None

    def __enter__(self) -> "StopSignal":
        # Signals are the main thread's.
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

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)  # type: ignore[arg-type]

    def _ours(self) -> bool:
        return threading.current_thread() is threading.main_thread()
