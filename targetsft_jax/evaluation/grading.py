"""Grade many completions in worker processes that are killed at a time limit."""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from targetsft_jax.evaluation.graders.answers import grade_exact
from targetsft_jax.evaluation.graders.grade import Grade, check_mode
from targetsft_jax.evaluation.graders.registry import find_grader

if TYPE_CHECKING:
    from targetsft_jax.data.records import Problem

_ROOT = Path(__file__).resolve().parents[2]
_WORKER = "targetsft_jax.evaluation.grading_worker"

_START_LIMIT = 120.0
"""Seconds until a new worker is ready: imports and canary, on a machine under load."""
_MEMORY_BYTES = 4 << 30
_REQUESTS_PER_WORKER = 25
"""Fewest requests per worker: a start takes as long as some hundred answers."""
_MAX_WORKERS = 8
_MAX_STARTS = 3
"""Consecutive workers of one place that may end before their first answer."""


@dataclass(frozen=True)
class GradingRequest:
    """A completion to grade.

    Attributes:
        grader: name of the grader: math, choice or exact.
        output: the completion.
        gold: the gold answer.
        options: letter -> text of a multiple-choice problem.
        mode: strict or reference.
    """

    grader: str
    output: str
    gold: str
    options: Mapping[str, str] | None = None
    mode: str = "strict"


def check_gold(
    grader: str, gold: str, options: Mapping[str, str] | None = None
) -> None:
    """Check that a gold answer can be graded against.

    Raises:
        ValueError: no such grader; a gold answer that it cannot parse; options that
            are missing or do not have the gold letter.
    """
    find_grader(grader).check_gold(gold, options or {})


def check_answers(grader: str, problems: "Sequence[Problem]") -> None:
    """Check that a grader can use all gold answers, before anything is generated.

    Raises:
        ValueError: it cannot use one; names the problem.
    """
    for problem in problems:
        try:
            check_gold(grader, problem.answer)
        except ValueError as error:
            raise ValueError(f"{problem.id}: {error}") from None


def grade_answers(requests: Sequence[GradingRequest]) -> list[Grade]:
    """Grade completions of a run's own problems; returns verdicts in their order.

    The exact grader compares texts and plain numbers: it has no parser that would need
    a process with a time limit. The others grade as in `grade_all`.
    """
    if all(request.grader == "exact" for request in requests):
        return [grade_exact(request.output, request.gold) for request in requests]
    return grade_all(requests)


def grade_all(
    requests: Sequence[GradingRequest],
    *,
    workers: int | None = None,
    time_limit: float = 5.0,
) -> list[Grade]:
    """Grade completions in worker processes.

    An answer that takes longer than the limit has `how` "timeout", one whose worker
    fails or ends "error"; both cost that answer only. It may be called from any thread,
    and leaves no process behind, also if it is interrupted.

    Args:
        requests: completions with their gold answers.
        workers: number of processes; None: one per CPU, fewer for few requests.
        time_limit: seconds per answer.

    Returns:
        A verdict for each request, in order.

    Raises:
        ValueError: an unknown grader or mode; workers or time_limit not above 0.
        RuntimeError: a worker does not reproduce known verdicts, or does not start.
    """
    graders = sorted({(request.grader, request.mode) for request in requests})
    with GradingPool(graders, workers=workers, time_limit=time_limit) as pool:
        return pool.grade(requests)


class GradingPool:
    """Worker processes that stay ready between batches; use it as a context.

    Args:
        graders: (name, mode) of every grader that requests may name.
        workers: most processes; None: one per CPU, fewer for few requests.
        time_limit: seconds per answer.

    Raises:
        ValueError: an unknown grader or mode; workers or time_limit not above 0.
    """

    def __init__(
        self,
        graders: Sequence[tuple[str, str]],
        *,
        workers: int | None = None,
        time_limit: float = 5.0,
    ) -> None:
        if time_limit <= 0:
            raise ValueError(f"time_limit is {time_limit}; expected seconds above 0")
        if workers is not None and workers < 1:
            raise ValueError(f"workers is {workers}; expected 1 or more")
        for name, mode in graders:
            find_grader(name)
            check_mode(mode)
        self._setup: dict[str, Any] = {
            "graders": list(graders),
            "time_limit": time_limit,
            "start_limit": _START_LIMIT,
            "memory_bytes": _MEMORY_BYTES,
        }
        self._size = workers
        self._selector = selectors.DefaultSelector()
        self._workers: list[_Worker] = []
        self._failed_starts = 0
        self._requests: Sequence[GradingRequest] = ()
        self._queue: deque[int] = deque()
        self._grades: dict[int, Grade] = {}

    def __enter__(self) -> Self:
        """Return the pool; processes start with the first requests."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all processes."""
        for worker in list(self._workers):
            self._remove(worker)
        self._selector.close()

    def grade(self, requests: Sequence[GradingRequest]) -> list[Grade]:
        """Grade completions; verdicts and errors are those of `grade_all`."""
        self._requests = requests
        self._queue = deque(range(len(requests)))
        self._grades = {}
        for worker in list(self._workers):
            if worker.process.poll() is not None:
                self._remove(worker)  # Ended while it was idle, by the system.
            elif worker.ready:
                self._next(worker)
        while len(self._workers) < self._workers_for(len(requests)):
            self._start()
        while len(self._grades) < len(requests):
            self._step()
        return [self._grades[i] for i in range(len(requests))]

    def _workers_for(self, requests: int) -> int:
        if self._size is not None:
            return min(self._size, requests)
        share = -(-requests // _REQUESTS_PER_WORKER)
        return min(len(os.sched_getaffinity(0)), share, _MAX_WORKERS)

    def _start(self) -> None:
        worker = _Worker(self._setup)
        self._workers.append(worker)
        self._selector.register(worker.output, selectors.EVENT_READ, worker)

    def _remove(self, worker: "_Worker") -> None:
        self._selector.unregister(worker.output)
        self._workers.remove(worker)
        worker.end()

    def _step(self) -> None:
        """Wait for the next reply or time limit, and act on it."""
        deadline = min(worker.deadline for worker in self._workers)
        events = self._selector.select(max(0.0, deadline - time.monotonic()))
        for key, _ in events:
            self._read(key.data)
        now = time.monotonic()
        for worker in [w for w in self._workers if w.deadline <= now]:
            self._lost(worker, "timeout")

    def _read(self, worker: "_Worker") -> None:
        reply = worker.receive()
        if reply is None:
            self._lost(worker, "error")
        elif worker.index is not None and reply:
            self._grades[worker.index] = Grade(
                reply["correct"], reply["extracted"], reply["how"]
            )
            self._next(worker)
        elif "error" in reply:
            raise RuntimeError(f"a worker process cannot grade: {reply['error']}")
        elif reply:
            self._failed_starts = 0
            worker.ready = True
            self._next(worker)

    def _next(self, worker: "_Worker") -> None:
        """Send the next request of the queue, if there is one."""
        worker.buffer = b""
        worker.index = None
        worker.deadline = float("inf")
        if self._queue:
            worker.index = self._queue.popleft()
            request = self._requests[worker.index]
            worker.deadline = time.monotonic() + self._setup["time_limit"]
            worker.send(
                {
                    "grader": request.grader,
                    "output": request.output,
                    "gold": request.gold,
                    "options": dict(request.options or {}),
                    "mode": request.mode,
                }
            )

    def _lost(self, worker: "_Worker", how: str) -> None:
        """End a worker, give its request the verdict, and start another worker."""
        if worker.index is None and not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_STARTS:
                raise RuntimeError(
                    f"{_MAX_STARTS} worker processes ended or took longer than"
                    f" {_START_LIMIT:.0f} s before their first answer; try"
                    f" `{sys.executable} -m {_WORKER}` by hand"
                )
        elif worker.index is not None:
            self._grades[worker.index] = Grade(False, None, how)
        self._remove(worker)
        if len(self._workers) < len(self._queue) + sum(
            w.index is not None for w in self._workers
        ):
            self._start()


class _Worker:
    """A worker process and the request that it is grading."""

    def __init__(self, setup: dict[str, Any]) -> None:
        path = os.pathsep.join(filter(None, (str(_ROOT), os.getenv("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.index: int | None = None
        self.ready = False
        self.buffer = b""
        self.deadline = time.monotonic() + setup["start_limit"]
        self.send(setup)

    @property
    def output(self) -> int:
        """File descriptor of its replies."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def send(self, message: dict[str, Any]) -> None:
        """Write one line; a worker that has ended is noticed when it is read."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self.process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Read what has arrived: a reply, {} if incomplete, None at its end."""
        chunk = os.read(self.output, 1 << 16)
        if not chunk:
            return None
        self.buffer += chunk
        return json.loads(self.buffer) if self.buffer.endswith(b"\n") else {}

    def end(self) -> None:
        """Kill the process and wait for it."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
