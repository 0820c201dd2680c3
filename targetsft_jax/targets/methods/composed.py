"""Targets composed of a γ and a residual π̃, each selected by name.

    target("custom", logits, labels, gamma={"entropy": 20}, residual={"guided": 0.5},
           teacher_logits=...)

A choice is a name, or a mapping of one name to its number. As in a configuration:

    target:
      name: custom
      gamma: {power: 0.5}
      residual: {tempered: 0.7}
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from jax import Array

from targetsft_jax.keys import Domain, at_least, between, more_than
from targetsft_jax.targets.method import Hyper, Method
from targetsft_jax.targets.methods.weighted import TOP_K, idft
from targetsft_jax.targets.qtarget import QTarget
from targetsft_jax.targets.rows import Mix, Rows

ENTRIES: list[Method] = []

Choice = str | Mapping[str, float]


@dataclass(frozen=True)
class GammaOption:
    """Definition of a named γ.

    Attributes:
        gamma: (rows, number, column) -> γ [...].
        number: its number as a hyper-parameter; None if it has none.
        column: per-token input that it reads; None for none.
    """

    gamma: Callable[[Rows, float, Array | None], Array]
    number: Hyper | None = None
    column: str | None = None


@dataclass(frozen=True)
class ResidualOption:
    """Definition of a named residual π̃.

    Attributes:
        mix: number -> (α, β) of T; None for the model's own p.
        number: its number as a hyper-parameter; None if it has none.
        needs: names of its inputs.
        share: number -> λ of π̃ = (1 − λ) p + λ T.
    """

    mix: Callable[[float], Mix] | None
    number: Hyper | None = None
    needs: tuple[str, ...] = ()
    share: Callable[[float], float] = lambda number: 1


_ETA = Hyper(
    0.5, "η, from the student (0) to the other model (1).", between(0, 1), static=True
)

GAMMAS: Mapping[str, GammaOption] = MappingProxyType(
    {
        # Outside of [0, 1] Q is signed, and its cross-entropy has no minimum.
        "constant": GammaOption(
            lambda rows, number, _: rows.constant(number),
            Hyper(1.0, "γ itself.", between(0, 1), static=True),
        ),
        "probability": GammaOption(lambda rows, *_: rows.prob),
        "power": GammaOption(
            lambda rows, number, _: rows.power(number),
            Hyper(0.5, "α of p_y^α.", at_least(-1), static=True),
        ),
        "entropy": GammaOption(
            lambda rows, number, _: rows.top_share(int(number)),
            Hyper(20, "Most probable tokens that count.", TOP_K),
        ),
        "threshold": GammaOption(
            lambda rows, number, _: (rows.prob > number).astype(rows.prob.dtype),
            Hyper(0.1, "τ of 1[p_y > τ].", between(0, 1, closed="[)"), static=True),
        ),
        "concentration": GammaOption(
            lambda rows, *_: rows.power_of(rows.concentration)
        ),
        "in_distribution": GammaOption(
            lambda rows, number, _: idft(rows, beta=number).label_weight,
            Hyper(1.0, "β of IDFT's exponent.", more_than(0), static=True),
        ),
        "reference_probability": GammaOption(
            lambda rows, number, column: _needed(column), column="reference_prob"
        ),
        "column": GammaOption(
            lambda rows, number, column: _needed(column), column="label_gamma"
        ),
    }
)

RESIDUALS: Mapping[str, ResidualOption] = MappingProxyType(
    {
        "model": ResidualOption(None),
        "tempered": ResidualOption(
            lambda number: (1 / number, 0),
            Hyper(0.7, "Temperature.", more_than(0), static=True),
        ),
        "uniform": ResidualOption(lambda _: (0, 0)),
        "teacher": ResidualOption(lambda _: (0, 1), None, ("teacher_logits",)),
        "reference": ResidualOption(lambda _: (0, 1), None, ("reference_logits",)),
        "guided": ResidualOption(lambda eta: (1 - eta, eta), _ETA, ("teacher_logits",)),
        "guided_reference": ResidualOption(
            lambda eta: (1 - eta, eta), _ETA, ("reference_logits",)
        ),
        "mixed": ResidualOption(
            lambda _: (0, 1),
            Hyper(0.5, "λ of (1 − λ) p + λ π_T.", between(0, 1), static=True),
            ("teacher_logits",),
            share=lambda number: number,
        ),
    }
)


def custom(
    rows: Rows, *, gamma: Choice | float, residual: Choice, **columns: Array
) -> QTarget:
    """A target composed of a γ and a residual, each selected by name.

        Q = γ δ_y + (1 − γ) π̃

    Args:
        rows: row statistics.
        gamma: one of `GAMMAS`, or a number for a constant.
        residual: one of `RESIDUALS`.
        columns: the per-token input [...] of γ by its name, `reference_prob` or
            `label_gamma`, if γ reads one.

    Returns:
        a = γ, b = (1 − γ) λ and T, where π̃ = (1 − λ) p + λ T with λ = 1 except for
        the residual "mixed", since p − π̃ = λ (p − T); for "model" a alone.

    Raises:
        ValueError: an unknown name, or a mapping without exactly one entry.
    """
    gamma_option, number = _choose("gamma", _named(gamma), GAMMAS)
    column = columns.get(gamma_option.column or "")
    weight = gamma_option.gamma(rows, number, column)
    residual_option, number = _choose("residual", residual, RESIDUALS)
    if residual_option.mix is None:
        return QTarget(weight)
    share = residual_option.share(number)
    return QTarget(weight, (1 - weight) * share, residual_option.mix(number))


def custom_needs(*, gamma: Choice | float, residual: Choice) -> tuple[str, ...]:
    """Inputs that a composed target needs; raises as `custom` does."""
    column = _choose("gamma", _named(gamma), GAMMAS)[0].column
    needs = _choose("residual", residual, RESIDUALS)[0].needs
    return needs if column is None else (*needs, column)


def _needed(column: Array | None) -> Array:
    assert column is not None  # `custom_needs` names it.
    return column


def _named(gamma: Choice | float) -> Choice:
    """Normalize a bare number to `{"constant": number}`."""
    return {"constant": gamma} if isinstance(gamma, int | float) else gamma


def _choose(key: str, choice: Choice, table: Mapping[str, Any]) -> tuple[Any, float]:
    """Option and number of a choice; 1 for an option without a number.

    Raises:
        ValueError: an unknown name, a number outside its domain, or a mapping without
            exactly one entry.
    """
    if not _is_choice(choice, table):
        raise ValueError(f"custom: {key} is {choice!r}; expected {_expected(table)}")
    ((name, number),) = _pairs(choice)
    option = table[name]
    if option.number is None:
        return option, 1.0
    return option, float(option.number.default if number is None else number)


def _is_choice(choice: Any, table: Mapping[str, Any]) -> bool:
    """True for one name of a table, alone or with a number in its domain."""
    if not isinstance(choice, str | Mapping) or len(_pairs(choice)) != 1:
        return False
    ((name, number),) = _pairs(choice)
    if name not in table:
        return False
    entry: Hyper | None = table[name].number
    if number is None:
        return True
    return entry is not None and entry.refusal(name, number) is None


def _pairs(choice: Choice) -> list[tuple[str, Any]]:
    return [(choice, None)] if isinstance(choice, str) else list(choice.items())


def _expected(table: Mapping[str, Any]) -> str:
    options = [
        name + (f" ({option.number.domain.expected})" if option.number else "")
        for name, option in table.items()
    ]
    numbered = {name: o.number.default for name, o in table.items() if o.number}
    name = next(iter(numbered))
    return (
        f"one of {', '.join(options)}; with its number as {{{name}: {numbered[name]}}}"
    )


def _choices(table: Mapping[str, Any]) -> Domain:
    """Domain of the choices from a table."""
    return Domain(_expected(table), lambda choice: _is_choice(_named(choice), table))


ENTRIES.append(
    Method(
        custom,
        label="γ",
        alternative="1 − γ",
        mix="by residual",
        needs=custom_needs,
        hyper={
            "gamma": Hyper(
                "probability",
                "γ of a composed target: a number, NAME, or {NAME: NUMBER}.",
                _choices(GAMMAS),
            ),
            "residual": Hyper(
                "model",
                "π̃ of a composed target: NAME, or {NAME: NUMBER}.",
                _choices(RESIDUALS),
            ),
        },
    )
)
