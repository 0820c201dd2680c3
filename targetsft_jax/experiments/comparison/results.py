"""Results of the cells of a comparison, and their file results.jsonl."""

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.storage import atomic


@dataclass(frozen=True)
class CellResult:
    """Verdicts and measurements of one trained model, or of a shared one.

    Attributes:
        setting: name of the setting; "" if there is one only.
        method: name in the registry; "start" or "teacher" for the shared models.
        label: name in tables, such as `target_sft eta=0.25`.
        hyper: hyper-parameters that the comparison sets.
        seed: seed of the cell.
        learning_rate: peak learning rate; None for a shared model.
        problems: ids of the problems, in one order for all cells of a setting.
        correct: correct completions of each problem.
        samples: completions per problem.
        history: "step" and metrics over training; may be empty.
        probe: label probes "before" and "after"; may be empty.
        run_dir: run directory; "" for a shared model.
    """

    setting: str
    method: str
    label: str
    hyper: dict[str, Any]
    seed: int
    learning_rate: float | None
    problems: list[str]
    correct: list[int]
    samples: int
    history: dict[str, list[float]]
    probe: dict[str, Any]
    run_dir: str


def write(path: Path, rows: Iterable[CellResult]) -> None:
    """Write results as one JSON object per line."""
    lines = (json.dumps(dataclasses.asdict(row)) + "\n" for row in rows)
    atomic.write_text(path, "".join(lines))


def read(path: Path) -> list[CellResult]:
    """Read the results of a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [CellResult(**json.loads(line)) for line in lines]
