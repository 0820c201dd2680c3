"""Label probes of a comparison: means over seeds, before and after training."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from targetsft_jax.experiments.comparison.order import label_order
from targetsft_jax.experiments.comparison.results import CellResult

KINDS = ("clean", "corrupted")
"""Kinds of labels; a setting without wrong labels has the first only."""


def histogram_data(rows: Sequence[CellResult], setting: str) -> list[dict[str, Any]]:
    """Histograms of p_y in a setting: one row per label, kind, time and bin.

    Shares are means over seeds; bins are equal parts of [0, 1].
    """
    result = []
    for label, method, cells in _probed(rows, setting):
        for kind in KINDS:
            for time in ("before", "after"):
                probes = _probes(cells, time, kind)
                if not probes:
                    continue
                shares = np.mean([probe["label_prob"] for probe in probes], axis=0)
                result += [
                    {
                        "setting": setting,
                        "label": label,
                        "method": method,
                        "labels": kind,
                        "time": time,
                        "low": number / len(shares),
                        "high": (number + 1) / len(shares),
                        "share": float(share),
                    }
                    for number, share in enumerate(shares)
                ]
    return result


def accuracy_data(rows: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Accuracies after training: one row per setting and label, in per cent.

    Means over seeds, of settings that have wrong labels; the label "start" has those
    before training.
    """
    result = []
    for setting in dict.fromkeys(row.setting for row in rows):
        start: dict[str, Any] | None = None
        methods = []
        for label, method, cells in _probed(rows, setting):
            after = _accuracies(cells, "after")
            start = start or _accuracies(cells, "before")
            if after:
                where = {"setting": setting, "label": label, "method": method}
                methods.append(where | after)
        if start and methods:
            where = {"setting": setting, "label": "start", "method": "start"}
            result += [where | start, *methods]
    return result


def _accuracies(cells: Sequence[CellResult], time: str) -> dict[str, Any] | None:
    clean, corrupted = (_probes(cells, time, kind) for kind in KINDS)
    if not clean or not corrupted:
        return None
    return {
        "clean": 100 * float(np.mean([probe["accuracy"] for probe in clean])),
        "corrupted": 100 * float(np.mean([probe["accuracy"] for probe in corrupted])),
        "memorised": 100 * float(np.mean([probe["memorised"] for probe in corrupted])),
    }


def _probed(
    rows: Sequence[CellResult], setting: str
) -> Iterator[tuple[str, str, list[CellResult]]]:
    """Yield each label that was probed in a setting, its method and its cells."""
    cells: dict[str, list[CellResult]] = {}
    for row in rows:
        if row.setting == setting and row.probe:
            cells.setdefault(row.label, []).append(row)
    for label in label_order({k: v[0].method for k, v in cells.items()}):
        yield label, cells[label][0].method, cells[label]


def _probes(cells: Sequence[CellResult], time: str, kind: str) -> list[dict[str, Any]]:
    probes = (cell.probe.get(time, {}).get(kind) for cell in cells)
    return [probe for probe in probes if probe]
