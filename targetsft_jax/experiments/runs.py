"""What finished or running trainings have written down, read back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.config.schema import CONFIG_FILE
from targetsft_jax.telemetry import goodput
from targetsft_jax.telemetry.log import HISTOGRAMS_FILE, METRICS_FILE, read_rows


@dataclass(frozen=True)
class Run:
    """The numbers of one training.

    Attributes:
        name: how it is called beside others.
        rows: the objects of metrics.jsonl, by step.
        histograms: those of histograms.jsonl.
        seconds: wall time by what it went into; empty where none was kept.
    """

    name: str
    rows: list[dict[str, Any]]
    histograms: list[dict[str, Any]]
    seconds: dict[str, float]

    def series(self, metric: str) -> tuple[list[int], list[float]]:
        """Steps and values of a metric, where it was measured and finite."""
        found = [
            (row["step"], row[metric])
            for row in self.rows
            if row.get(metric) is not None
        ]
        return [step for step, _ in found], [value for _, value in found]

    def last(self, metric: str) -> float | None:
        """The newest value of a metric, or None."""
        values = self.series(metric)[1]
        return values[-1] if values else None


def read_runs(paths: list[str]) -> list[Run]:
    """The trainings in some run directories, those of `compare` before the target.

    Args:
        paths: run directories, or one of their `compare/METHOD` folders.

    Raises:
        ValueError: a folder is none, or has no numbers yet.
    """
    found: list[tuple[Path, str, Path]] = []
    for path in map(Path, paths):
        compared = sorted(f.parent for f in path.glob(f"compare/*/{METRICS_FILE}"))
        own = [path] if (path / METRICS_FILE).is_file() else []
        if not (compared or own):
            raise ValueError(
                f"{path}: no {METRICS_FILE} in it; expected the run_dir of a training "
                "that has taken a step"
            )
        found += [(path, folder.name, folder) for folder in compared]
        found += [(path, _method(folder), folder) for folder in own]
    tails = dict(zip(map(Path, paths), _tails([Path(path) for path in paths])))
    runs = [
        _read(folder, f"{tails[path]} · {method}" if method else tails[path])
        for path, method, folder in found
    ]
    empty = [run.name for run in runs if not run.rows]
    if empty:
        raise ValueError(f"{', '.join(empty)}: no step is written down yet")
    return runs


def _read(folder: Path, name: str) -> Run:
    spread = folder / HISTOGRAMS_FILE
    return Run(
        name,
        sorted(read_rows(folder / METRICS_FILE), key=lambda row: row["step"]),
        read_rows(spread) if spread.is_file() else [],
        goodput.read(folder) or {},
    )


def _method(folder: Path) -> str:
    """What a run trains by, as its config says; empty where it says nothing."""
    import yaml

    try:
        kept = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        return str(kept["target"]["name"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""


def _tails(folders: list[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names
