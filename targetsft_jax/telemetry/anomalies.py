"""Detect skipped steps and loss spikes, and log the training examples behind them."""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir

MIN_HISTORY = 16
"""Finite losses required before spikes are detected."""

_MAX_PRINTED = 20
"""Maximum number of examples in a printed line; the file lists all."""


def is_spike(loss: float, history: Sequence[float], deviations: float) -> bool:
    """Return whether a loss is far above the earlier ones.

    loss > median + deviations · max(1.4826 · MAD, 0.01 · |median|), where 1.4826 · MAD
    is the standard deviation of a normal distribution. Median and MAD (median absolute
    deviation) are robust, so that an earlier spike does not hide the next one. The
    1 % keeps a nearly constant loss from spiking at every step.

    Args:
        loss: loss of the step.
        history: finite losses of earlier steps; fewer than MIN_HISTORY: no spike.
        deviations: robust deviations above the median; 0 disables detection.
    """
    if not deviations or len(history) < MIN_HISTORY or not math.isfinite(loss):
        return False
    median = float(np.median(history))
    deviation = 1.4826 * float(np.median(np.abs(np.asarray(history) - median)))
    return loss > median + deviations * max(deviation, 0.01 * abs(median))


class Anomalies:
    """Detector and log of skipped steps and loss spikes.

    Args:
        run_dir: anomalies are appended to `anomalies`; earlier losses are read from
            `metrics`.
        start: last step of earlier sessions; rows of later steps are dropped.
        config: `spike_window` and `spike_deviations`.
        examples_of: step -> examples in its rows, as `file:line`.
        message: prints a line.
    """

    def __init__(
        self,
        run_dir: RunDir,
        start: int,
        config: TrainConfig,
        *,
        examples_of: Callable[[int], list[str]],
        message: Callable[[str], None],
    ):
        self._deviations = config.spike_deviations
        self._examples_of, self._message = examples_of, message
        rows = jsonl.read(run_dir.metrics)
        losses = (row.get("loss") for row in rows if row.get("step", start) <= start)
        # A non-finite loss is null in metrics.jsonl.
        finite = (loss for loss in losses if loss is not None)
        self._losses = deque(finite, maxlen=config.spike_window)
        self._counts = {"skipped": 0, "spike": 0}
        self._path = run_dir.anomalies
        self._writer: jsonl.Writer | None = None
        jsonl.truncate_after(self._path, start)

    def check(self, metrics: Mapping[str, Any]) -> dict[str, float]:
        """Return the metric `spike` of the next step: 1.0 for a spike, else 0.0."""
        loss = float(metrics["loss"])
        spike = is_spike(loss, self._losses, self._deviations)
        if math.isfinite(loss):
            self._losses.append(loss)
        return {"spike": float(spike)}

    def record(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Print and log a skipped step or a spike; do nothing for other steps."""
        loss = float(metrics["loss"])
        if metrics["skipped"]:
            text = "loss or gradient not finite, step skipped"
            self._record("skipped", step, loss, text)
        elif metrics["spike"]:
            self._record("spike", step, loss, f"loss spike ({loss:.4g})")

    def close(self) -> None:
        """Print the counts of this session and close the file."""
        if self._writer is not None:
            self._writer.close()
        skipped, spikes = self._counts["skipped"], self._counts["spike"]
        if skipped or spikes:
            self._message(
                f"skipped steps: {skipped}, loss spikes: {spikes} in this session; "
                f"their examples are in {self._path}"
            )

    def _record(self, kind: str, step: int, loss: float, text: str) -> None:
        self._counts[kind] += 1
        examples = self._examples_of(step)
        listed = ", ".join(examples[:_MAX_PRINTED])
        more = len(examples) - _MAX_PRINTED
        rest = f" and {more} more" if more > 0 else ""
        self._message(f"step {step}: {text}; {len(examples)} examples: {listed}{rest}")
        row = {"step": step, "kind": kind, "loss": loss, "examples": examples}
        if self._writer is None:
            self._writer = jsonl.Writer(self._path)
        self._writer.append(row)
