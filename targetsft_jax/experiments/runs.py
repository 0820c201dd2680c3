"""Read the metrics of finished or running trainings from their run directories."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from targetsft_jax.checkpoints.remote import local_run
from targetsft_jax.evaluation.results import Results
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.experiments.comparison.order import REFERENCES
from targetsft_jax.loss.histogram import BINS
from targetsft_jax.storage import jsonl, yaml_file
from targetsft_jax.storage.location import is_url
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.goodput import read_seconds
from targetsft_jax.telemetry.metrics import Metric

_DEPTH = 3
"""Levels of folders below a path that are searched for runs."""

_LARGEST, _NAME_CHARACTERS = 1e300, 60


@dataclass(frozen=True)
class Run:
    """The metrics of one training.

    Attributes:
        name: label in figures and tables.
        rows: objects of metrics.jsonl, sorted by step.
        histograms: objects of histograms.jsonl, sorted by step.
        seconds: cause -> seconds of wall time; empty without a goodput file.
        scores: evaluated model -> its score; empty without a results file.
    """

    name: str
    rows: list[dict[str, Any]]
    histograms: list[dict[str, Any]]
    seconds: dict[str, float]
    scores: dict[str, AverageAtK] = field(default_factory=dict)

    @property
    def score(self) -> AverageAtK | None:
        """Score of the trained model; None if it was not evaluated."""
        trained = [s for name, s in self.scores.items() if name not in REFERENCES]
        return trained[0] if trained else None

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Return steps and values of a metric, omitting non-finite values."""
        points = [
            (row["step"], row[metric])
            for row in self.rows
            if _is_number(row.get(metric))
        ]
        return [step for step, _ in points], [value for _, value in points]

    def distributions(self, metric: str) -> tuple[list[int], list[list[float]]]:
        """Return steps and histograms [BINS] of a metric, omitting non-finite ones."""
        points = [
            (row["step"], row[metric])
            for row in self.histograms
            if _is_histogram(row.get(metric))
        ]
        return [step for step, _ in points], [shares for _, shares in points]

    def summary(self, metric: Metric) -> float | None:
        """Return the newest value of a metric, or its sum; None if never measured.

        Goodput is read from the goodput file, which includes time after the last step.
        """
        total = sum(self.seconds.values())
        if metric.name == "goodput" and total:
            return self.seconds["steps"] / total
        values = self.series(metric.name)[1]
        if metric.total:
            return sum(values)
        return values[-1] if values else None


def read_runs(paths: list[str]) -> list[Run]:
    """Read runs without duplicates; runs without a step are omitted.

    Args:
        paths: run directories, or folders with runs in them, at most three levels down;
            or URLs of run directories.

    Raises:
        ValueError: there is no run at or below a path, or none has a step yet.
    """
    rows = {folder: r for path in paths for folder, r in _find_runs(path).items()}
    return [_read(folder, rows[folder], name) for folder, name in _names(list(rows))]


def read_run(folder: Path) -> Run:
    """Read one run directory; without metrics, a run without rows."""
    return _read(folder, _rows(RunDir(folder).metrics), folder.name)


def _find_runs(path: str) -> dict[Path, list[dict[str, Any]]]:
    """Find run directories at or below a path, with the rows of metrics.jsonl."""
    if is_url(path):
        path = str(local_run(path).path)
    name = RunDir(Path(path)).metrics.name
    # `Path.resolve` raises RuntimeError for a loop of links.
    folder = Path(os.path.realpath(path))
    patterns = ["/".join([*["*"] * depth, name]) for depth in range(_DEPTH + 1)]
    files = [file for p in patterns for file in sorted(folder.glob(p))]
    if not files:
        raise ValueError(
            f"{path} has no {name}; expected a run directory, or a folder with run "
            f"directories at most {_DEPTH} levels down"
        )
    runs = {file.parent: rows for file in files if (rows := _rows(file))}
    if not runs:
        raise ValueError(f"{path}: {name} has no step yet")
    return runs


def _read(folder: Path, rows: list[dict[str, Any]], name: str) -> Run:
    run_dir = RunDir(folder)
    return Run(
        name,
        rows,
        _rows(run_dir.histograms),
        read_seconds(run_dir),
        Results(run_dir).scores(),
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [row for row in jsonl.read(path) if _is_step(row.get("step"))]
    return sorted(rows, key=lambda row: row["step"])


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    """True for a finite number; a damaged line may have anything."""
    if type(value) not in (int, float):
        return False
    return abs(value) < _LARGEST


def _is_histogram(value: Any) -> bool:
    return (
        isinstance(value, list) and len(value) == BINS and all(map(_is_number, value))
    )


def _names(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Name each run: the end of its path, plus its method if missing there."""
    for folder, tail in zip(folders, _tails(folders)):
        method = _method(folder)
        has_method = not method or method in re.split(r"[/.\- ]", tail)
        yield folder, tail if has_method else f"{tail} · {method}"


def _method(folder: Path) -> str:
    """Read the method in a run's configuration; "" if it is unreadable."""
    try:
        config = yaml_file.read_mapping(RunDir(folder).config)
        return str(config["target"]["name"])[:_NAME_CHARACTERS]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _tails(folders: list[Path]) -> list[str]:
    """Return the shortest path ends of equal length that are all different."""
    parts = [folder.parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        tails = ["/".join(part[-length:]) for part in parts]
        if len(set(tails)) == len(folders):
            break
    return tails
