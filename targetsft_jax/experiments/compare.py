"""Run the cells of a comparison: select learning rates, train, record the results."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from targetsft_jax.command import DONE, FAILED, UsageError
from targetsft_jax.config.resume import changed_keys
from targetsft_jax.config.schema import Config
from targetsft_jax.evaluation.results import Results
from targetsft_jax.evaluation.statistics import AverageAtK
from targetsft_jax.experiments.grid import Cell, Entry
from targetsft_jax.parallel.processes import is_primary
from targetsft_jax.storage import atomic, json_file, yaml_file
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path
from targetsft_jax.training.run import run
from targetsft_jax.training.session import Shared


@dataclass
class Runner:
    """Runs cells in one process; frozen models and generated rows are loaded once.

    Attributes:
        cells: number of cells to run, for the printed lines.
        shared: frozen parameters and scores shared by the cells.
        seconds: durations of the cells that ran.
        failed: cells that ended with an error, such as a diverged training.
    """

    cells: int
    shared: Shared = field(default_factory=Shared)
    seconds: list[float] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)
    _number: int = 0

    def run_entry(self, entry: Entry) -> None:
        """Select the learning rate of an entry, then run its cells."""
        for trial in entry.trials():
            self.run_cell(trial)
        try:
            rate = selected_rate(entry)
        except ValueError as error:
            print(f"{entry.title}: {error}", flush=True)
            self.failed += entry.cells()
            return
        for cell in entry.cells(rate):
            self.run_cell(cell)

    def run_cell(self, cell: Cell) -> None:
        """Run a cell unless it is finished; its output is in SEED.log beside it."""
        self._number += 1
        start = f"[{self._number}/{self.cells}] {cell.title}"
        if finished_scores(cell.config) is not None:
            print(f"{start}: already finished", flush=True)
            return
        began = time.perf_counter()
        try:
            with _output_to(_beside(cell, ".log")):
                scores = run(cell.config, self.shared, extend=False)
        except UsageError:
            raise
        except ValueError as error:
            # Such as a rate at which the training diverges: the other cells go on.
            self.failed.append(cell)
            _record(cell, {"failed": str(error)})
            print(f"{start}: failed: {error}", flush=True)
            return
        self.seconds.append(time.perf_counter() - began)
        _record(cell, {"seconds": round(self.seconds[-1], 2)})
        score = scores.get(cell.config.method.name)
        value = "no problems" if score is None else f"{100 * score.average_at_k:.1f}"
        left = (self.cells - self._number) * sum(self.seconds) / len(self.seconds)
        print(
            f"{start}: {value} ({self.seconds[-1]:.0f} s, {left / 60:.0f} min left)",
            flush=True,
        )


def run_entries(entries: Sequence[Entry]) -> int:
    """Run all unfinished cells of entries in this process.

    Returns:
        The exit code: FAILED if a cell other than a trial failed.
    """
    runner = Runner(sum(len(e.cells()) + len(e.trials()) for e in entries))
    for entry in entries:
        runner.run_entry(entry)
    return FAILED if any(not cell.is_trial for cell in runner.failed) else DONE


def print_cells(entries: Sequence[Entry], jobs: int = 1) -> int:
    """Print the cells, their states and the estimated minutes; returns the exit code.

    Args:
        entries: entries of the comparison.
        jobs: processes that will run them at once.
    """
    seconds, unfinished = [], 0
    for entry in entries:
        for cell in (*entry.trials(), *entry.cells(_known_rate(entry))):
            is_finished = finished_scores(cell.config) is not None
            state = "finished" if is_finished else "to run"
            print(f"{state:<8}  {cell.title:<48}  {cell.config.run_dir}")
            seconds += _seconds(cell) if is_finished else []
            unfinished += not is_finished
    print(_estimate(unfinished, seconds, jobs))
    return DONE


def selected_rate(entry: Entry) -> float | None:
    """Return the learning rate with the best trial; None: nothing to select.

    A trial that failed is not selected.

    Raises:
        ValueError: a trial has not run, or all of them failed.
    """
    scores: dict[float, float] = {}
    for trial in entry.trials():
        stored = finished_scores(trial.config)
        if stored is None and "failed" in _notes(trial):
            continue
        if stored is None:
            raise ValueError(f"{trial.title} is not finished; run the comparison")
        score = stored[trial.config.method.name]
        scores[trial.config.train.learning_rate] = score.average_at_k
    if entry.tuning is not None and not scores:
        raise ValueError("the trials of all learning rates failed; add a lower rate")
    return min(scores, key=lambda rate: (-scores[rate], rate), default=None)


def finished_scores(config: Config) -> dict[str, AverageAtK] | None:
    """Return the scores of a finished cell; None: the cell must run."""
    run_dir = RunDir(user_path(config.run_dir))
    results = Results(run_dir)
    if not results.finished:
        return None
    try:
        before = yaml_file.read_mapping(run_dir.config)
    except (OSError, ValueError):
        return None
    evaluation = before.get("evaluation")
    if not isinstance(evaluation, dict):
        return None
    current, defaults = asdict(config.evaluation), asdict(type(config.evaluation)())
    same_evaluation = all(
        evaluation.get(key, defaults[key]) == value
        for key, value in current.items()
        if key != "data"
    )
    if changed_keys(before, config, extend=False) or not same_evaluation:
        return None
    return results.scores()


def _known_rate(entry: Entry) -> float | None:
    """Learning rate selected by finished trials, else that of the configuration."""
    with contextlib.suppress(ValueError):
        return selected_rate(entry)
    return None


def _estimate(unfinished: int, seconds: Sequence[float], jobs: int) -> str:
    text = f"{len(seconds)} cells finished, {unfinished} to run"
    if not unfinished:
        return text
    if not seconds:
        return f"{text}; their time is known after the first one"
    minutes = unfinished * sum(seconds) / len(seconds) / jobs / 60
    return f"{text}: about {minutes:.0f} minutes with {jobs} job{'s' * (jobs > 1)}"


def _seconds(cell: Cell) -> list[float]:
    """Duration of a finished cell; empty if it is unknown."""
    seconds = _notes(cell).get("seconds")
    return [float(seconds)] if isinstance(seconds, int | float) else []


def _record(cell: Cell, notes: dict[str, Any]) -> None:
    """Write the duration or the error of a cell beside its run directory."""
    if is_primary():
        _beside(cell, ".json").parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(_beside(cell, ".json"), json.dumps(notes) + "\n")


def _notes(cell: Cell) -> dict[str, Any]:
    """Duration or error of a cell; empty if it has not run."""
    try:
        return json_file.read_object(_beside(cell, ".json"))
    except (OSError, ValueError):
        return {}


def _beside(cell: Cell, suffix: str) -> Path:
    """File beside the run directory of a cell."""
    folder = user_path(cell.config.run_dir)
    return folder.with_name(folder.name + suffix)


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Append the printed lines to a file; only the primary process prints."""
    if not is_primary():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield
