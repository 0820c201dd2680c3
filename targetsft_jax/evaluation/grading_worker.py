"""Worker process that grades completions: JSON requests in, JSON verdicts out.

It reads and writes lines on the two pipes of its standard streams and imports neither
jax nor the caller's `__main__`. The kernel ends it when a request exceeds its time,
even while an operation on huge integers keeps the interpreter from handling signals.
"""

import json
import os
import resource
import signal
import sys
from typing import Any

from targetsft_jax.evaluation.graders.canary import check_canary
from targetsft_jax.evaluation.graders.registry import find_grader

_GRACE = 2.0
"""Seconds after which a worker ends itself, beyond the limit of its parent, which may
have been killed."""


def main() -> None:
    """Serve requests until the standard input is closed.

    The first line has the limits and the graders in use; the reply, after the canary,
    is `{"ready": true}` or the reason why not. Each further line is one request.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends its workers.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    replies = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)  # Libraries that print must not write between the replies.
    setup = json.loads(sys.stdin.readline())
    _limit_memory(setup["memory_bytes"])
    signal.setitimer(signal.ITIMER_REAL, setup["start_limit"] + _GRACE)
    try:
        check_canary([tuple(pair) for pair in setup["graders"]])
        _write(replies, {"ready": True})
    except Exception as error:
        _write(replies, {"error": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_REAL, setup["time_limit"] + _GRACE)
        reply = _grade(json.loads(line))
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(replies, reply)


def _grade(request: dict[str, Any]) -> dict[str, Any]:
    try:
        grade = find_grader(request["grader"]).grade(
            request["output"], request["gold"], request["options"], request["mode"]
        )
    except (Exception, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        return {"correct": False, "extracted": None, "how": "error", "reason": reason}
    return {
        "correct": grade.correct,
        "extracted": grade.extracted,
        "how": grade.how,
        "reason": "",
    }


def _write(replies: Any, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


def _limit_memory(size: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        size = min(size, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main()
