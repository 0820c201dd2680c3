"""Targets composed from a γ and a residual π̃ by name: no code for a new point.

    target("custom", logits, labels, gamma={"entropy": 20}, residual={"guided": 0.5},
           teacher_logits=...)

A choice is a name, or a one-entry mapping of the name to its number. As in a config:

    target:
      name: custom
      gamma: {power: 0.5}
      residual: {tempered: 0.7}
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import Array

from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Mix, Rows

Choice = str | Mapping[str, float]


def _entropy(rows: Rows, top_k: float) -> Array:
    return rows.top_share(int(top_k))


# name -> (γ [...] from rows and the choice's number, default number)
GAMMAS: Mapping[str, tuple[Callable[[Rows, float], Array], float]] = MappingProxyType(
    {
        "constant": (lambda rows, c: jnp.full_like(rows.prob, c), 1.0),
        "probability": (lambda rows, _: rows.prob, 1.0),
        "power": (lambda rows, alpha: rows.power(alpha), 0.5),
        "entropy": (_entropy, 20),
        "threshold": (lambda rows, tau: (rows.prob > tau).astype(rows.prob.dtype), 0.1),
    }
)

# name -> (mix from the choice's number, input needed, default number); None: p itself
RESIDUALS: Mapping[
    str, tuple[Callable[[float], Mix] | None, tuple[str, ...], float]
] = MappingProxyType(
    {
        "model": (None, (), 1.0),
        "tempered": (lambda temperature: (1 / temperature, 0), (), 0.7),
        "uniform": (lambda _: (0, 0), (), 1.0),
        "teacher": (lambda _: (0, 1), ("teacher_logits",), 1.0),
        "reference": (lambda _: (0, 1), ("reference_logits",), 1.0),
        "guided": (lambda eta: (1 - eta, eta), ("teacher_logits",), 0.5),
        "guided_reference": (
            lambda eta: (1 - eta, eta),
            ("reference_logits",),
            0.5,
        ),
    }
)


def custom(rows: Rows, *, gamma: Choice | float, residual: Choice) -> QTarget:
    """Q = γ δ_y + (1 − γ) π̃ with γ and π̃ chosen by name.

    Args:
        rows: row statistics.
        gamma: one of `GAMMAS`, or a number for a constant.
        residual: one of `RESIDUALS`.

    Raises:
        ValueError: an unknown name, or not exactly one entry in a mapping.
    """
    trust = _trust(rows, gamma)
    build, _, number = _choose("residual", residual, RESIDUALS)
    if build is None:
        return QTarget(trust)
    return QTarget(trust, 1 - trust, build(number))


def custom_needs(*, gamma: Choice | float, residual: Choice) -> tuple[str, ...]:
    """The inputs that a composed target needs; raises as `custom` does."""
    if not isinstance(gamma, int | float):
        _choose("gamma", gamma, GAMMAS)
    return _choose("residual", residual, RESIDUALS)[1]


def _trust(rows: Rows, gamma: Choice | float) -> Array:
    if isinstance(gamma, int | float):
        gamma = {"constant": float(gamma)}
    function, number = _choose("gamma", gamma, GAMMAS)
    return function(rows, number)


def _choose(
    key: str, choice: Choice, table: Mapping[str, tuple[Any, ...]]
) -> tuple[Any, ...]:
    """The table's entry for a choice, with the choice's number in the last place."""
    named = {choice: None} if isinstance(choice, str) else dict(choice)
    if len(named) != 1 or next(iter(named)) not in table:
        raise ValueError(
            f"custom: {key} is {choice!r}; expected one of {', '.join(table)}, "
            f"or one of them with its number, such as {{{next(iter(table))}: 0.5}}"
        )
    ((name, number),) = named.items()
    entry = table[name]
    return entry if number is None else (*entry[:-1], float(number))
