"""Order, family and short name of the rows of tables and figures.

The order is that of the registry, never that of scores.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from targetsft_jax.experiments.comparison.results import CellResult
from targetsft_jax.targets.methods import METHODS

REFERENCES = ("start", "teacher")
"""Models shared by the cells of a setting: listed first, and never ranked."""

FAMILIES = ("weighted", "regularised", "distillation", "composed")
"""Families of methods in their order."""

_COMPOSED = ("target_sft",)
"""Methods that both weigh the label and take a teacher's residual."""

_SHORT = (
    ("custom ", ""),
    ("reference_probability", "π_ref(y)"),
    ("probability", "p_y"),
    ("gamma=", "γ="),
    ("eta=", "η="),
    ("_weight=", "="),
)


def family(method: str) -> str:
    """Family of a method; "reference" for a shared model.

    Raises:
        ValueError: a name that is not in the registry.
    """
    if method in REFERENCES:
        return "reference"
    if method not in METHODS:
        raise ValueError(
            f"the results have the method {method[:60]!r}; expected one of "
            f"{', '.join((*REFERENCES, *METHODS))}"
        )
    if method in _COMPOSED:
        return "composed"
    return METHODS[method].build.__module__.rpartition(".")[2]


def in_order(rows: Iterable[CellResult]) -> dict[str, str]:
    """Labels in the order of tables, each with its method.

    The shared models, then the methods as in the registry, then their labels with
    numbers in ascending order.

    Raises:
        ValueError: a method that is not in the registry, or a label of two methods.
    """
    methods: dict[str, str] = {}
    for row in rows:
        family(row.method)
        if methods.setdefault(row.label, row.method) != row.method:
            raise ValueError(
                f"label {row.label[:60]!r} is of {methods[row.label]} and of "
                f"{row.method}; expected one method per label"
            )
    return label_order(methods)


def label_order(methods: Mapping[str, str]) -> dict[str, str]:
    """Labels, each with its method, in the order of tables."""
    names = [*REFERENCES, *METHODS]
    return dict(
        sorted(methods.items(), key=lambda x: (names.index(x[1]), natural(x[0])))
    )


def short(label: str) -> str:
    """Label of a figure: the usual symbols in place of long names."""
    for text, symbol in _SHORT:
        label = label.replace(text, symbol)
    return label


def natural(text: str) -> list[tuple[int, float, str]]:
    """Sort key with numbers by value: eta=0.25 before eta=0.5 before eta=10."""
    parts: list[Any] = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(p), "") if n % 2 else (1, 0.0, p) for n, p in enumerate(parts)]
