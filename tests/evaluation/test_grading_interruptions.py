"""Grading whose workers are killed in an answer, or whose parent receives Ctrl-C."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from support import launched

from targetsft_jax.evaluation.grading import GradingPool, GradingRequest, grade_all

# Some seconds of one regular expression; the other requests take milliseconds.
SLOW = GradingRequest("exact", "####" + "1" * 40_000_000, "3" * 40_000_000)
QUICK = GradingRequest("exact", "#### 3", "3")


def _workers(parent):
    """Process ids of the grading workers of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue  # ended meanwhile
        if int(status[1]) == parent and b"grading_worker" in command:
            found.append(int(folder.name))
    return found


def _wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_is_killed_in_an_answer_costs_that_answer_only():
    grades = []
    requests = [QUICK, SLOW, QUICK]
    thread = threading.Thread(
        target=lambda: grades.extend(grade_all(requests, workers=1, time_limit=60))
    )
    thread.start()
    _wait_until(lambda: _workers(os.getpid()))
    (worker,) = _workers(os.getpid())
    # It has the long request: the start and the first answer need a fifth of this.
    _wait_until(lambda: _resident(worker) > 100_000)
    os.kill(worker, signal.SIGKILL)
    thread.join(60)
    assert [(g.correct, g.how) for g in grades] == [
        (True, "marker"),
        (False, "error"),
        (True, "marker"),
    ]
    assert _workers(os.getpid()) == []


def test_workers_stay_between_batches_and_one_that_ended_is_replaced():
    with GradingPool([("exact", "strict")], workers=2) as pool:
        assert [g.correct for g in pool.grade([QUICK] * 4)] == [True] * 4
        workers = set(_workers(os.getpid()))
        wrong = GradingRequest("exact", "#### 4", "3")
        assert [g.correct for g in pool.grade([wrong, QUICK])] == [False, True]
        assert set(_workers(os.getpid())) == workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        _wait_until(lambda: not _workers(os.getpid()))
        assert [g.how for g in pool.grade([QUICK] * 2)] == ["marker"] * 2
    assert _workers(os.getpid()) == []


def test_ctrl_c_leaves_no_worker_behind():
    program = (
        "import signal\n"
        "from targetsft_jax.evaluation.grading import GradingRequest, grade_all\n"
        # A suite in the background of a shell ignores it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "slow = GradingRequest('exact', '####' + '1' * 40_000_000, '3' * 40_000_000)\n"
        "grade_all([slow] * 50, workers=2, time_limit=60)\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=launched.ROOT,
        env=os.environ | {"PYTHONPATH": str(launched.ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_until(lambda: len(_workers(parent.pid)) == 2)
        workers = _workers(parent.pid)
        _wait_until(lambda: all(_resident(worker) > 100_000 for worker in workers))
        # As a terminal does: to all processes of the group.
        os.killpg(parent.pid, signal.SIGINT)
        _, errors = parent.communicate(timeout=60)
    finally:
        parent.kill()
    assert "KeyboardInterrupt" in errors
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def _resident(process):
    """Resident memory in kB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
