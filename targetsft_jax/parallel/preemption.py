"""SIGTERM and SIGINT of a run: schedulers send the first before they kill a job.

A signal ends whatever the process does, as an exception that unwinds it; inside the
training loop SIGTERM is only recorded, so that the step under way is finished and
saved. An exception that is raised in a callback of the interpreter is lost, therefore
long loops call `check`, which raises it again.
"""

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from targetsft_jax.command import INTERRUPTED, STOPPED, Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_received: dict[int, bool] = {}
_recording: list["StopSignal"] = []


class Preempted(Stopped):
    """The run stopped on a signal.

    Args:
        number: the signal.
        step: the last optimizer step, if the training loop was stopped after it by all
            processes together.
    """

    def __init__(self, number: int = signal.SIGTERM, step: int | None = None):
        name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        after = "" if step is None else f" after step {step}"
        code = STOPPED if number == signal.SIGTERM else INTERRUPTED
        super().__init__(f"stopped by {name}{after}", code)
        self.step = step


class RaisedSignals:
    """Context manager in which SIGTERM and SIGINT raise `Preempted`.

    A second signal of the same kind acts as without this context.
    """

    def __init__(self) -> None:
        self._previous: dict[int, Any] = {}
        self._hook = sys.unraisablehook

    def __enter__(self) -> "RaisedSignals":
        if _in_main_thread():
            _received.clear()
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
            for number in _SIGNALS:
                self._previous[number] = signal.signal(number, self._raise)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._previous:
            for number in _SIGNALS:
                self._restore(number)
            sys.unraisablehook = self._hook
            _received.clear()

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self._restore(number)
        _received[number] = True
        raise Preempted(number)

    def _restore(self, number: int) -> None:
        signal.signal(number, self._previous[number] or signal.SIG_DFL)

    def _unraisable(self, unraisable: Any) -> None:
        """Pass over a lost `Preempted`, which `check` raises again."""
        if not isinstance(unraisable.exc_value, Preempted):
            self._hook(unraisable)


class StopSignal:
    """Context manager that records the first SIGTERM instead of ending the process.

    A second SIGTERM acts as without this context.

    Attributes:
        requested: True if this process has received SIGTERM.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> "StopSignal":
        # Only the main thread may set handlers.
        if _in_main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._record)
            _recording.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if _in_main_thread():
            _recording.remove(self)
            self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        """Reinstate the handler of before this context."""
        signal.signal(signal.SIGTERM, self._previous or signal.SIG_DFL)


def check() -> None:
    """Raise `Preempted` for a signal whose exception was lost in a callback."""
    if _received and _in_main_thread():
        raise Preempted(next(iter(_received)))


def requested() -> bool:
    """True if a SIGTERM is recorded and the process is to stop soon."""
    return any(stop.requested for stop in _recording)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
