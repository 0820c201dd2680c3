"""Run the cells of a comparison sequentially in one process and tabulate scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from targetsft_jax.command import DONE
from targetsft_jax.config.resume import changed_keys
from targetsft_jax.config.schema import Config
from targetsft_jax.evaluation.results import Results
from targetsft_jax.evaluation.statistics import AverageAtK, table
from targetsft_jax.experiments.grid import Cell
from targetsft_jax.storage import yaml_file
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path
from targetsft_jax.training.run import run
from targetsft_jax.training.session import Shared

REFERENCES = ("teacher", "start")
"""Models shared by all cells, measured once and listed first."""


def print_cells(cells: Sequence[Cell]) -> int:
    """Print the cells and their states; returns the exit code."""
    for cell in cells:
        state = "to run" if finished_scores(cell.config) is None else "finished"
        print(f"{cell.name:<24} seed {cell.seed}  {state:<8}  {cell.config.run_dir}")
    return DONE


def run_cells(cells: Sequence[Cell]) -> None:
    """Run a comparison and print its tables."""
    print("\n" + "\n".join(tables(cells, compare(cells))))


def compare(cells: Sequence[Cell]) -> dict[str, AverageAtK]:
    """Run all unfinished cells; frozen models are loaded once.

    Returns:
        Row of the table -> score: the shared models, then all cells.
    """
    shared = Shared()
    scores: dict[str, AverageAtK] = {}
    several_seeds = len({cell.seed for cell in cells}) > 1
    for number, cell in enumerate(cells, 1):
        label = f"{cell.name}, seed {cell.seed}" if several_seeds else cell.name
        stored = finished_scores(cell.config)
        if stored is not None:
            print(f"\n[{number}/{len(cells)}] {label}: already finished")
        else:
            print(f"\n[{number}/{len(cells)}] {label}: {cell.config.run_dir}")
            stored = run(cell.config, shared)
        for name, score in stored.items():
            row = name if name in REFERENCES else label
            scores.setdefault(row, score)
    return scores


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
    current = {k: vars(config.evaluation)[k] for k in vars(config.evaluation)}
    same_evaluation = all(
        evaluation.get(key) == value for key, value in current.items() if key != "data"
    )
    if changed_keys(before, config) or not same_evaluation:
        return None
    return results.scores()


def tables(cells: Sequence[Cell], scores: Mapping[str, AverageAtK]) -> list[str]:
    """Render the scores as Markdown: per cell, and per method over its seeds."""
    if not scores:
        return ["no cell has scores; set evaluation.problems"]
    lines = [table(scores)]
    seeds = sorted({cell.seed for cell in cells})
    if len(seeds) > 1:
        lines += [
            "",
            f"over seeds {', '.join(map(str, seeds))}",
            "",
            _over_seeds(cells, scores),
        ]
    return lines


def _over_seeds(cells: Sequence[Cell], scores: Mapping[str, AverageAtK]) -> str:
    rows = ["| method | Average@k, mean | lowest | highest |", "|---|--:|--:|--:|"]
    for name in dict.fromkeys(cell.name for cell in cells):
        values = [
            100 * scores[f"{name}, seed {cell.seed}"].average_at_k
            for cell in cells
            if cell.name == name
        ]
        numbers = (float(np.mean(values)), min(values), max(values))
        rows.append(f"| {name} | " + " | ".join(f"{x:.2f}" for x in numbers) + " |")
    return "\n".join(rows)
