"""Steps whose numbers go wrong, and which records they were taken from."""

import json
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.data.pipeline import Dataset, rows_at
from targetsft_jax.telemetry.log import METRICS_FILE, keep_until, read_rows

FILE = "skipped.jsonl"
"""In a run directory: an object for each step that was skipped or whose loss leapt,
with all records of its rows."""

FEWEST = 16
"""Losses before which nothing is called a leap."""

_SHOWN = 20
_WHAT = {
    "skipped": "loss or gradient not finite; parameters kept as is",
    "spike": "the loss leapt",
}


def leaps(loss: float, before: Sequence[float], deviations: float) -> bool:
    """Whether a loss is far above those before it.

    Above median + deviations · 1.4826 · MAD, which for a normal distribution is as many
    standard deviations above the mean. Both are taken from the middle, so that an
    earlier leap does not hide the next one. A deviation counts as no less than 1 % of
    the median: a loss that hardly varies would leap at every step.

    Args:
        loss: of this step.
        before: finite losses of the steps before.
        deviations: how many; 0 never finds a leap.
    """
    if not deviations or len(before) < FEWEST or not math.isfinite(loss):
        return False
    middle = float(np.median(before))
    spread = 1.4826 * float(np.median(np.abs(np.asarray(before) - middle)))
    return loss > middle + deviations * max(spread, 0.01 * abs(middle))


def records_of(
    dataset: Dataset, config: TrainConfig, seed: int, step: int
) -> list[str]:
    """The records that lie in the rows of a step (1-based), as `file:line`."""
    rows = rows_at(
        dataset,
        step - 1,
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        seed=seed,
    )
    found = (dataset.origins(row) for row in rows.reshape(-1).tolist())
    return [record for inside in found for record in inside]


class Watch:
    """Says which records a step was taken from that was skipped or whose loss leapt.

    Args:
        run_dir: FILE in it gets a line for each; its metrics have the losses before.
        start: steps done before; later lines are dropped.
        config: how many losses are kept, and how far one is a leap.
        records: a step's number -> the records of its rows.
        say: prints a line.
    """

    def __init__(
        self,
        run_dir: Path,
        start: int,
        config: TrainConfig,
        *,
        records: Callable[[int], list[str]],
        say: Callable[[str], None],
    ):
        self._deviations, self._records = config.spike_deviations, records
        self._say = say
        metrics = run_dir / METRICS_FILE
        rows = read_rows(metrics) if metrics.exists() else []
        losses = (row.get("loss") for row in rows if row["step"] <= start)
        # One that is not finite is null there.
        finite = (loss for loss in losses if loss is not None)
        self._losses = deque(finite, maxlen=config.spike_window)
        self._counts = dict.fromkeys(_WHAT, 0)
        self._path = run_dir / FILE
        keep_until(self._path, start)

    def seen(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
        """`spike`, 1 where the loss leapt, of a step's finished metrics."""
        loss = float(metrics["loss"])
        spike = leaps(loss, self._losses, self._deviations)
        if math.isfinite(loss):
            self._losses.append(loss)
        if metrics["skipped"]:
            self._tell("skipped", step, loss)
        elif spike:
            self._tell("spike", step, loss)
        return {"spike": float(spike)}

    def close(self) -> None:
        """Say how many there were."""
        skipped, leapt = self._counts["skipped"], self._counts["spike"]
        if skipped or leapt:
            self._say(
                f"{skipped} steps were skipped and {leapt} losses leapt since the "
                f"start of this session; their records are in {self._path}"
            )

    def _tell(self, kind: str, step: int, loss: float) -> None:
        self._counts[kind] += 1
        records = self._records(step)
        row = {
            "step": step,
            "why": kind,
            "loss": loss if math.isfinite(loss) else None,
            "records": records,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        shown = ", ".join(records[:_SHOWN])
        more = f" and {len(records) - _SHOWN} more" if len(records) > _SHOWN else ""
        loss_said = f" ({loss:.4g})" if kind == "spike" else ""
        self._say(
            f"step {step}: {_WHAT[kind]}{loss_said}; {len(records)} records: "
            f"{shown}{more}"
        )
