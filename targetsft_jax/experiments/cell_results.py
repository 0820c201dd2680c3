"""Results of finished cells, read from their run directories."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from targetsft_jax.evaluation.results import Results
from targetsft_jax.experiments.compare import finished_scores, selected_rate
from targetsft_jax.experiments.comparison.order import REFERENCES
from targetsft_jax.experiments.comparison.results import CellResult
from targetsft_jax.experiments.grid import Cell, Entry
from targetsft_jax.experiments.runs import read_run
from targetsft_jax.storage import json_file, jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.storage.user_path import user_path

HISTORY = ("gamma", "strength", "negative_mass", "nll", "label_prob", "entropy")
"""Metrics whose course over training is recorded."""

_POINTS = 60
"""Most points of a course."""


def results(entries: Sequence[Entry]) -> tuple[list[CellResult], list[Cell]]:
    """Read the results of all finished cells.

    Returns:
        One result per finished cell and per measured start or teacher of a setting and
        seed, in the order of the entries; and the cells that are not finished.
    """
    found: list[CellResult] = []
    unfinished: list[Cell] = []
    # A model that several settings share was measured in one of them, under one key.
    keys: dict[tuple[str, str, int], str | None] = {}
    measured: dict[str | None, CellResult] = {}
    for entry in entries:
        try:
            rate = selected_rate(entry)
        except ValueError:
            unfinished += entry.cells()
            continue
        for cell in entry.cells(rate):
            if finished_scores(cell.config) is None:
                unfinished.append(cell)
                continue
            found += _models(entry, cell, cell.config.method.name)
            for name in REFERENCES:
                key = Results(RunDir(user_path(cell.config.run_dir))).key(name)
                keys.setdefault((cell.setting, name, cell.seed), key)
                for reference in _models(entry, cell, name):
                    measured.setdefault(key, reference)
    references = [
        replace(measured[key], setting=setting, seed=seed)
        for (setting, name, seed), key in keys.items()
        if key is not None and key in measured
    ]
    return [*references, *found], unfinished


def _models(entry: Entry, cell: Cell, name: str) -> Iterator[CellResult]:
    """Yield the result of one model of a cell; none if it was measured elsewhere."""
    run_dir = RunDir(user_path(cell.config.run_dir))
    graded = jsonl.read(run_dir.completions(name))
    if not graded:
        return
    is_method = name not in REFERENCES
    probes = _probes(run_dir)
    yield CellResult(
        setting=cell.setting,
        method=name,
        label=cell.name if is_method else name,
        hyper=dict(entry.hyper) if is_method else {},
        seed=cell.seed,
        learning_rate=cell.config.train.learning_rate if is_method else None,
        problems=[row["id"] for row in graded],
        correct=[sum(row["correct"]) for row in graded],
        samples=len(graded[0]["correct"]),
        history=_history(run_dir) if is_method else {},
        probe=(
            {"before": probes["start"], "after": probes[name]}
            if is_method and {"start", name} <= probes.keys()
            else {}
        ),
        run_dir=cell.config.run_dir if is_method else "",
    )


def _history(run_dir: RunDir) -> dict[str, list[float]]:
    """Courses of metrics at up to `_POINTS` steps that have all of them."""
    rows = [
        row
        for row in read_run(run_dir.path).rows
        if all(isinstance(row.get(name), int | float) for name in HISTORY)
    ]
    rows = rows[:: max(1, len(rows) // _POINTS)]
    return {
        name: [float(row[name]) for row in rows] for name in ("step", *HISTORY) if rows
    }


def _probes(run_dir: RunDir) -> dict[str, Any]:
    try:
        return json_file.read_object(run_dir.label_probe)
    except (OSError, ValueError):
        return {}
