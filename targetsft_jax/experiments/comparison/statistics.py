"""Statistics of a comparison: averages, paired differences, their two intervals.

Two intervals have different meanings. The one *over problems* takes problems as units,
with the seeds averaged: it covers other problems, not other trainings. The one *over
seeds* takes trainings as units, from three seeds on: it covers other trainings, on
these problems.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from targetsft_jax.evaluation.estimates import (
    Estimate,
    average,
    holm,
    macro_average,
    mean_estimate,
    p_value,
    paired_difference,
    smallest_visible_difference,
)
from targetsft_jax.experiments.comparison.order import REFERENCES, in_order
from targetsft_jax.experiments.comparison.results import CellResult

FEWEST_SEEDS = 3
"""Fewest seeds that give an interval over seeds."""


@dataclass(frozen=True)
class Difference:
    """Difference to the baseline on the same problems.

    Attributes:
        over_problems: estimate with problems as units, seeds averaged.
        over_seeds: estimate with the common seeds as units; None below 3 of them.
        p_value: of Student's test over problems.
        adjusted_p_value: Holm's, over the methods of the setting; nan for a shared
            model, which is outside the family of tests.
        smallest_visible: difference that the test finds with a power of 0.8.
    """

    over_problems: Estimate
    over_seeds: Estimate | None
    p_value: float
    adjusted_p_value: float
    smallest_visible: float


@dataclass(frozen=True)
class Score:
    """Average@k of one label in one setting; all numbers are shares in [0, 1].

    Attributes:
        label, method, hyper: as in `CellResult`.
        learning_rates: the different rates of its cells.
        seeds: seed -> Average@k.
        over_problems: estimate with problems as units, seeds averaged.
        over_seeds: estimate with seeds as units; None below 3 of them.
        difference: to the baseline; None for the baseline itself or without it.
        rank: "best", "tied" if the paired interval to the best contains 0, or "".
    """

    label: str
    method: str
    hyper: Mapping[str, Any]
    learning_rates: tuple[float, ...]
    seeds: Mapping[int, float]
    over_problems: Estimate
    over_seeds: Estimate | None
    difference: Difference | None
    rank: str

    @property
    def lowest(self) -> float:
        """Lowest Average@k of a seed."""
        return min(self.seeds.values())

    @property
    def highest(self) -> float:
        """Highest Average@k of a seed."""
        return max(self.seeds.values())

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; nan for a single seed."""
        if len(self.seeds) == 1:
            return math.nan
        return float(np.std(list(self.seeds.values()), ddof=1))


@dataclass(frozen=True)
class Setting:
    """Scores of one setting, in the order of tables.

    Attributes:
        name: name of the setting.
        problems: number of problems, the same ones for all labels.
        samples: completions per problem and seed.
        scores: label -> score.
    """

    name: str
    problems: int
    samples: int
    scores: Mapping[str, Score]


@dataclass(frozen=True)
class Macro:
    """Mean over settings, each with the same weight.

    Attributes:
        average: of Average@k.
        difference: to the baseline; None for the baseline itself or without it.
    """

    average: Estimate
    difference: Estimate | None


@dataclass(frozen=True)
class Statistics:
    """Statistics of all settings.

    Attributes:
        baseline: label to which the others are compared.
        labels: label -> method, in the order of tables.
        settings: the settings in the order of the results.
        macro: label -> mean over settings, for labels of every setting; empty for a
            single setting.
    """

    baseline: str
    labels: Mapping[str, str]
    settings: Sequence[Setting]
    macro: Mapping[str, Macro]


def statistics(rows: Sequence[CellResult], *, baseline: str = "sft") -> Statistics:
    """Compute the statistics of a comparison.

    Args:
        rows: results of cells and of shared models, in any order.
        baseline: label to which the others are compared.

    Raises:
        ValueError: no rows, no such baseline, a repeated cell, or cells of one setting
            with other problems or samples.
    """
    if not rows:
        raise ValueError("there are no results; run the comparison first")
    labels = in_order(rows)
    if baseline not in labels:
        raise ValueError(
            f"baseline {baseline[:60]!r} has no results; expected one of "
            f"{', '.join(labels)}"
        )
    groups: dict[str, dict[str, list[CellResult]]] = {}
    for row in rows:
        groups.setdefault(row.setting, {}).setdefault(row.label, []).append(row)
    for name, group in groups.items():
        _check(name, [row for cells in group.values() for row in cells])
    ordered = {
        name: {label: group[label] for label in labels if label in group}
        for name, group in groups.items()
    }
    settings = [_setting(name, group, baseline) for name, group in ordered.items()]
    macro = _macro(list(ordered.values()), settings, baseline)
    return Statistics(baseline, labels, settings, macro)


def _check(setting: str, rows: Sequence[CellResult]) -> None:
    """Raise ValueError unless the cells of a setting can be compared."""
    first, cells = rows[0], set()
    for row in rows:
        where = f"{row.label}, seed {row.seed}"
        where = f"setting {setting}, {where}" if setting else where
        if (row.label, row.seed) in cells:
            raise ValueError(f"{where}: two results; remove one of them")
        cells.add((row.label, row.seed))
        if len(row.correct) != len(row.problems):
            raise ValueError(
                f"{where}: {len(row.correct)} verdicts of {len(row.problems)} "
                "problems; finish the evaluation"
            )
        if row.samples != first.samples:
            raise ValueError(
                f"{where}: {row.samples} samples per problem; expected "
                f"{first.samples}, as {first.label} has; evaluate both alike"
            )
        if row.problems != first.problems:
            raise ValueError(
                f"{where}: {_different(row.problems, first.problems)}, unlike "
                f"{first.label}; expected the same problems in the same order"
            )


def _different(problems: Sequence[str], expected: Sequence[str]) -> str:
    if len(problems) != len(expected):
        return f"{len(problems)} problems, not {len(expected)}"
    pairs = enumerate(zip(problems, expected), 1)
    number, (name, other) = next((n, p) for n, p in pairs if p[0] != p[1])
    return f"problem {number} is {name[:60]}, not {other[:60]}"


def _setting(
    name: str, group: Mapping[str, Sequence[CellResult]], baseline: str
) -> Setting:
    scores = {label: _score(cells) for label, cells in group.items()}
    methods = [label for label in scores if scores[label].method not in REFERENCES]
    if baseline in scores:
        for label, cells in group.items():
            if label != baseline:
                difference = _difference(cells, group[baseline])
                scores[label] = replace(scores[label], difference=difference)
        _adjust(scores, [label for label in methods if label != baseline])
    if methods:
        best = max(methods, key=lambda label: scores[label].over_problems.value)
        for label in methods:
            if label == best or _ties(group[label], group[best]):
                rank = "best" if label == best else "tied"
                scores[label] = replace(scores[label], rank=rank)
    first = next(iter(group.values()))[0]
    return Setting(name, len(first.problems), first.samples, scores)


def _score(cells: Sequence[CellResult]) -> Score:
    cells = sorted(cells, key=lambda cell: cell.seed)
    seeds = {cell.seed: _average(cell) for cell in cells}
    rates = {cell.learning_rate for cell in cells} - {None}
    return Score(
        cells[0].label,
        cells[0].method,
        cells[0].hyper,
        tuple(sorted(rate for rate in rates if rate is not None)),
        seeds,
        average(_verdicts(cells)),
        _over_seeds(list(seeds.values()), 0.0),
        None,
        "",
    )


def _difference(
    cells: Sequence[CellResult], baseline: Sequence[CellResult]
) -> Difference:
    over_problems = paired_difference(_verdicts(cells), _verdicts(baseline))
    others = {cell.seed: _average(cell) for cell in baseline}
    pairs = [_average(c) - others[c.seed] for c in cells if c.seed in others]
    p = p_value(over_problems)
    visible = smallest_visible_difference(over_problems.standard_error)
    return Difference(over_problems, _over_seeds(pairs, -1.0), p, math.nan, visible)


def _adjust(scores: dict[str, Score], family: Sequence[str]) -> None:
    """Set the adjusted p-values of a family of tests; without a p-value, nan."""
    differences = {label: scores[label].difference for label in family}
    tests = {k: d for k, d in differences.items() if d and not math.isnan(d.p_value)}
    for (label, difference), p in zip(
        tests.items(), holm([d.p_value for d in tests.values()])
    ):
        adjusted = replace(difference, adjusted_p_value=p)
        scores[label] = replace(scores[label], difference=adjusted)


def _ties(cells: Sequence[CellResult], best: Sequence[CellResult]) -> bool:
    difference = paired_difference(_verdicts(cells), _verdicts(best))
    return difference.low <= 0 <= difference.high


def _macro(
    groups: Sequence[Mapping[str, Sequence[CellResult]]],
    settings: Sequence[Setting],
    baseline: str,
) -> dict[str, Macro]:
    if len(settings) == 1:
        return {}
    common = [k for k in settings[0].scores if all(k in s.scores for s in settings)]
    problems = {tuple(next(iter(g.values()))[0].problems) for g in groups}
    shares = {label: [_shares(group[label]) for group in groups] for label in common}
    result = {}
    for label in common:
        scores = [setting.scores[label] for setting in settings]
        difference = None
        if len(problems) == 1:
            # The same problems in every setting: their errors are correlated, and the
            # means over settings of each problem are the independent units.
            means = np.mean(shares[label], axis=0)
            mean = mean_estimate(means, 0.0, 1.0)
            if baseline in common and label != baseline:
                others = np.mean(shares[baseline], axis=0)
                difference = mean_estimate(means - others, -1.0, 1.0)
        else:
            mean = macro_average([score.over_problems for score in scores])
            parts = [s.difference.over_problems for s in scores if s.difference]
            if baseline in common and label != baseline:
                difference = macro_average(parts, -1.0, 1.0)
        result[label] = Macro(mean, difference)
    return result


def _verdicts(cells: Sequence[CellResult]) -> np.ndarray:
    """Verdicts of all seeds [P, seeds · k] bool, the correct ones first.

    With k samples of every seed, their mean is the mean over seeds of the shares.
    """
    totals = np.sum([cell.correct for cell in cells], axis=0)
    return np.arange(len(cells) * cells[0].samples) < totals[:, None]


def _shares(cells: Sequence[CellResult]) -> np.ndarray:
    return _verdicts(cells).mean(axis=1)


def _average(cell: CellResult) -> float:
    return sum(cell.correct) / len(cell.correct) / cell.samples


def _over_seeds(values: Sequence[float], lowest: float) -> Estimate | None:
    """Estimate with seeds as units; None for fewer than `FEWEST_SEEDS`."""
    if len(values) < FEWEST_SEEDS:
        return None
    return mean_estimate(np.asarray(values), lowest, 1.0)
