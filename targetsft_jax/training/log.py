"""What a run says: a live line, metrics.jsonl and TensorBoard."""

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS_FILE = "metrics.jsonl"

# Printed name, metric, format. A metric that a method does not have is left out.
_LINE = (
    ("loss", "loss", "{:.4f}"),
    ("nll", "nll", "{:.4f}"),
    ("γ", "gamma", "{:.3f}"),
    ("A", "strength", "{:.3f}"),
    ("neg", "negative_mass", "{:.1e}"),
    ("H", "entropy", "{:.3f}"),
    ("KL_T", "kl_teacher", "{:.3f}"),
    ("KL_ref", "kl_reference", "{:.3f}"),
    ("|g|", "grad_norm", "{:.3f}"),
)

LEGEND = (
    "γ: mean trust in the label · A: strength a + b · neg: negative mass of Q · "
    "H: student entropy (nats) · KL_T: KL(teacher ‖ student) · |g|: gradient norm"
)


class RunLog:
    """Writes one object a step and prints a line now and then.

    Args:
        run_dir: where metrics.jsonl and the TensorBoard files go.
        steps: of the whole run.
        start: steps done before; later lines of an interrupted run are dropped.
        every: steps between printed lines.
    """

    def __init__(self, run_dir: Path, *, steps: int, start: int, every: int):
        # Not at the top: it would load protobuf into every import of the package.
        from tensorboardX import SummaryWriter

        self._steps, self._every, self._start = steps, every, start
        path = run_dir / METRICS_FILE
        _keep_until(path, start)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run_dir / "tensorboard"), purge_step=start + 1)
        self._began = self._last = time.perf_counter()
        self._timed = 0
        if start:
            _say(f"going on from the checkpoint of step {start}")

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Record step `step` (1-based) with its metrics, which are finished."""
        now = time.perf_counter()
        row = {"step": step} | {k: float(v) for k, v in metrics.items()}
        seconds = now - self._last
        row["seconds"] = seconds
        row["tokens_per_second"] = row["tokens"] / seconds
        self._last = now
        self._timed += 1
        if self._timed == 1:  # the first step compiles: it says nothing of the pace
            self._began = now
        # JSON has no NaN: a reader must not choke on the step that shows one.
        safe = {k: v if math.isfinite(v) else None for k, v in row.items()}
        self._file.write(json.dumps(safe) + "\n")
        self._file.flush()
        for name, value in row.items():
            if name != "step":
                self._board.add_scalar(name, value, step)
        if row.get("skipped"):
            _say(f"step {step}: loss or gradient not finite; parameters kept as is")
        if step % self._every == 0 or step == self._steps or self._timed == 1:
            _say(self._line(row, now))

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        self._board.close()

    def _line(self, row: Mapping[str, float], now: float) -> str:
        parts = [
            f"{name} {template.format(row[key])}"
            for name, key, template in _LINE
            if key in row
        ]
        pace = (now - self._began) / max(1, self._timed - 1)
        left = pace * (self._steps - row["step"]) if self._timed > 1 else None
        eta = "–" if left is None else f"{int(left) // 60}:{int(left) % 60:02d}"
        return (
            f"step {int(row['step']):>{len(str(self._steps))}}/{self._steps}  "
            + "  ".join(parts)
            + f"  {row['tokens_per_second'] / 1000:.1f}k tok/s  ETA {eta}"
        )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _keep_until(path: Path, step: int) -> None:
    """Drop lines of steps that a resumed run will take again, and a torn last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError):
            continue
    # Beside it first: a kill in between must not cost the lines that are kept.
    partial = path.with_suffix(".partial")
    partial.write_text("".join(kept), encoding="utf-8")
    partial.replace(path)
