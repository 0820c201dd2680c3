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
from typing import TYPE_CHECKING, Any

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
    if time_limit <= 0:
        raise ValueError(f"time_limit is {time_limit}; expected seconds above 0")
    if workers is not None and workers < 1:
        raise ValueError(f"workers is {workers}; expected 1 or more")
    graders = sorted({(request.grader, request.mode) for request in requests})
    for name, mode in graders:
        find_grader(name)
        check_mode(mode)
    if not requests:
        return []
    if workers is None:
        share = -(-len(requests) // _REQUESTS_PER_WORKER)
        workers = min(len(os.sched_getaffinity(0)), share, _MAX_WORKERS)
    setup = {
        "graders": graders,
        "time_limit": time_limit,
        "start_limit": _START_LIMIT,
        "memory_bytes": _MEMORY_BYTES,
    }
    return _Pool(requests, setup, min(workers, len(requests))).run()


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


class _Pool:
    """Workers, the queue of requests, and the verdicts so far."""

    def __init__(
        self, requests: Sequence[GradingRequest], setup: dict[str, Any], size: int
    ) -> None:
        self.requests = requests
        self.setup = setup
        self.size = size
        self.queue = deque(range(len(requests)))
        self.grades: dict[int, Grade] = {}
        self.selector = selectors.DefaultSelector()
        self.workers: list[_Worker] = []
        self.failed_starts = 0

    def run(self) -> list[Grade]:
        """Grade all requests."""
        try:
            for _ in range(self.size):
                self._start()
            while len(self.grades) < len(self.requests):
                self._step()
        finally:
            for worker in list(self.workers):
                self._remove(worker)
            self.selector.close()
        return [self.grades[i] for i in range(len(self.requests))]

    def _start(self) -> None:
        worker = _Worker(self.setup)
        self.workers.append(worker)
        self.selector.register(worker.output, selectors.EVENT_READ, worker)

    def _remove(self, worker: _Worker) -> None:
        self.selector.unregister(worker.output)
        self.workers.remove(worker)
        worker.end()

    def _step(self) -> None:
        """Wait for the next reply or time limit, and act on it."""
        deadline = min(worker.deadline for worker in self.workers)
        events = self.selector.select(max(0.0, deadline - time.monotonic()))
        for key, _ in events:
            self._read(key.data)
        now = time.monotonic()
        for worker in [w for w in self.workers if w.deadline <= now]:
            self._lost(worker, "timeout")

    def _read(self, worker: _Worker) -> None:
        reply = worker.receive()
        if reply is None:
            self._lost(worker, "error")
        elif worker.index is not None and reply:
            self.grades[worker.index] = Grade(
                reply["correct"], reply["extracted"], reply["how"]
            )
            self._next(worker)
        elif "error" in reply:
            raise RuntimeError(f"a worker process cannot grade: {reply['error']}")
        elif reply:
            self.failed_starts = 0
            self._next(worker)

    def _next(self, worker: _Worker) -> None:
        """Send the next request of the queue, if there is one."""
        worker.buffer = b""
        worker.index = None
        worker.deadline = float("inf")
        if self.queue:
            worker.index = self.queue.popleft()
            request = self.requests[worker.index]
            worker.deadline = time.monotonic() + self.setup["time_limit"]
            worker.send(
                {
                    "grader": request.grader,
                    "output": request.output,
                    "gold": request.gold,
                    "options": dict(request.options or {}),
                    "mode": request.mode,
                }
            )

    def _lost(self, worker: _Worker, how: str) -> None:
        """End a worker, give its request the verdict, and start another worker."""
        if worker.index is None:
            self.failed_starts += 1
            if self.failed_starts >= _MAX_STARTS:
                raise RuntimeError(
                    f"{_MAX_STARTS} worker processes ended or took longer than"
                    f" {_START_LIMIT:.0f} s before their first answer; try"
                    f" `{sys.executable} -m {_WORKER}` by hand"
                )
        else:
            self.grades[worker.index] = Grade(False, None, how)
        self._remove(worker)
        if len(self.workers) < len(self.queue) + sum(
            w.index is not None for w in self.workers
        ):
            self._start()
