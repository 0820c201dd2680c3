"""Read the metrics of finished or running trainings from their run directories."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.goodput import read_seconds
from targetsft_jax.telemetry.metrics import Metric

_DEPTH = 3
"""Levels of folders below a path in which runs are searched."""


@dataclass(frozen=True)
class Run:
    """The metrics of one training.

    Attributes:
        name: label beside other runs.
        rows: the objects of metrics.jsonl, by step.
        histograms: the objects of histograms.jsonl, by step.
        seconds: wall time by cause; empty where the run has no goodput file.
    """

    name: str
    rows: list[dict[str, Any]]
    histograms: list[dict[str, Any]]
    seconds: dict[str, float]

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it was measured and finite."""
        points = [
            (row["step"], row[metric])
            for row in self.rows
            if row.get(metric) is not None
        ]
        return [step for step, _ in points], [value for _, value in points]

    def distributions(self, metric: str) -> tuple[list[int], list[list[float]]]:
        """Steps and histograms [BINS] of a metric, where all shares are finite."""
        points = [
            (row["step"], row[metric])
            for row in self.histograms
            if row.get(metric) and None not in row[metric]
        ]
        return [step for step, _ in points], [shares for _, shares in points]

    def summary(self, metric: Metric) -> float | None:
        """Newest value of a metric, or its sum over steps; None if never measured.

        Goodput is read from its own file, which also has the time after the last step.
        """
        total = sum(self.seconds.values())
        if metric.name == "goodput" and total:
            return self.seconds["steps"] / total
        values = self.series(metric.name)[1]
        if metric.total:
            return sum(values)
        return values[-1] if values else None


def read_runs(paths: list[str]) -> list[Run]:
    """Read runs, each once; in a folder of runs those without a step are left out.

    Args:
        paths: run directories, or folders with runs in them, at most three levels down.

    Raises:
        ValueError: a path has no run, or none of its runs has a step yet.
    """
    rows = {folder: r for path in paths for folder, r in _find_runs(path).items()}
    return [_read(folder, rows[folder], name) for folder, name in _names(list(rows))]


def _find_runs(path: str) -> dict[Path, list[dict[str, Any]]]:
    """Run directories at or below a path, each with the rows of its metrics.jsonl."""
    name = RunDir(Path(path)).metrics.name
    patterns = ["/".join([*["*"] * depth, name]) for depth in range(_DEPTH + 1)]
    files = [file for p in patterns for file in sorted(Path(path).resolve().glob(p))]
    if not files:
        raise ValueError(
            f"{path}: no {name} in it; expected a run directory, or a folder with run "
            f"directories at most {_DEPTH} levels down"
        )
    runs = {file.parent: rows for file in files if (rows := _rows(file))}
    if not runs:
        raise ValueError(f"{path}: {name} has no step yet")
    return runs


def _read(folder: Path, rows: list[dict[str, Any]], name: str) -> Run:
    run_dir = RunDir(folder)
    return Run(name, rows, _rows(run_dir.histograms), read_seconds(run_dir))


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [row for row in jsonl.read(path) if isinstance(row.get("step"), int)]
    return sorted(rows, key=lambda row: row["step"])


def _names(folders: list[Path]) -> Iterator[tuple[Path, str]]:
    """Each run with its name: the end of its path, and its method if not in that."""
    for folder, tail in zip(folders, _tails(folders)):
        method = _method(folder)
        shown = not method or method in re.split(r"[/.\- ]", tail)
        yield folder, tail if shown else f"{tail} · {method}"


def _method(folder: Path) -> str:
    """The method in a run's configuration; empty where it cannot be read."""
    import yaml

    try:
        config = yaml.safe_load(RunDir(folder).config.read_text(encoding="utf-8"))
        return str(config["target"]["name"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""


def _tails(folders: list[Path]) -> list[str]:
    """The shortest ends of paths, of equal length, by which they differ."""
    parts = [folder.parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        tails = ["/".join(part[-length:]) for part in parts]
        if len(set(tails)) == len(folders):
            break
    return tails
