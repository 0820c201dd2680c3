"""Time from the command to the first step of a training, by part.

    python perf/startup.py [--repeats 3] [-- --config quickstart --run_dir DIR …]

Everything behind `--` is passed to `targetsft train`. A first process fills the caches
of data and compiled programs; the next ones are measured, up to the end of their first
step. With the run_dir of a stopped run, that is the time of a resume.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

PARTS = (
    "start and imports",
    "configuration",
    "data and models opened",
    "parameters or checkpoint",
    "tracing and lowering",
    "program read from the cache",
    "first step",
    "other",
)
_BEGAN = "STARTUP_BEGAN"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    arguments = [x for x in rest if x != "--"]
    if options.worker:
        _worker(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        if "--run_dir" not in arguments:
            arguments += ["--run_dir", folder]
        arguments = arguments if "--config" in arguments else _quickstart(arguments)
        _measured(arguments)
        runs = [_measured(arguments) for _ in range(options.repeats)]
    print(f"{'part':<32}{'seconds':>8}")
    for part in (*PARTS, "total"):
        print(f"{part:<32}{statistics.median(run[part] for run in runs):>8.2f}")


def _quickstart(arguments: list[str]) -> list[str]:
    return ["--config", "quickstart", *arguments]


def _measured(arguments: list[str]) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", "--", *arguments]
    environment = {**os.environ, _BEGAN: repr(time.time())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    seconds: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def _worker(arguments: list[str]) -> None:
    """Train up to the end of the first step, and print the seconds of each part."""
    began = float(os.environ[_BEGAN])
    seconds = dict.fromkeys(PARTS, 0.0)
    import targetsft_jax.train
    from targetsft_jax.training import fit, run

    seconds["start and imports"] = time.time() - began
    import jax

    def timed(owner: Any, name: str, part: str) -> None:
        real: Callable = getattr(owner, name)

        def call(*positional: Any, **named: Any) -> Any:
            start = time.time()
            result = real(*positional, **named)
            seconds[part] += time.time() - start
            return result

        setattr(owner, name, call)

    timed(targetsft_jax.train, "load", "configuration")
    timed(run, "open_session", "data and models opened")
    timed(fit, "init_state", "parameters or checkpoint")
    timed(fit.Checkpoints, "restore", "parameters or checkpoint")
    timed(fit.Checkpoints, "__init__", "parameters or checkpoint")
    real_fit, real_make = run.fit, fit.make_train_step

    def marked_fit(*positional: Any, **named: Any) -> Any:
        # Not before: the start models of a quick start are trained by `fit`, too.
        fit.make_train_step = make_train_step
        return real_fit(*positional, **named)

    def make_train_step(*positional: Any) -> Any:
        step_fn = real_make(*positional)

        def step(*inputs: Any) -> Any:
            clock = [time.time()]
            lowered = step_fn.lower(*inputs)
            clock.append(time.time())
            compiled = lowered.compile()
            clock.append(time.time())
            jax.block_until_ready(compiled(*inputs))
            clock.append(time.time())
            for part, start, end in zip(PARTS[4:7], clock, clock[1:]):
                seconds[part] = end - start
            total = clock[-1] - began
            seconds["other"] = total - sum(seconds.values())
            print("\n" + json.dumps({**seconds, "total": total}), flush=True)
            os._exit(0)

        return step

    run.fit = marked_fit
    targetsft_jax.train.main(arguments)
    raise SystemExit("the run has no step left; raise --train.steps")


if __name__ == "__main__":
    main()
