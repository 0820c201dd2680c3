"""The plane of targets: every γ with every residual π̃, and the named methods on it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from targetsft_jax.experiments.comparison.statistics import Setting, Statistics
from targetsft_jax.targets.methods import METHODS
from targetsft_jax.targets.methods.composed import GAMMAS, RESIDUALS

ANY = "any"
"""Residual of a method whose γ is 1: nothing remains for it."""

Coordinate = tuple[str, Any]
"""Name of a choice and its number; None for a choice without a number."""


@dataclass(frozen=True)
class Position:
    """Position of a method on the plane.

    Attributes:
        gamma: choice of γ.
        residual: choice of π̃; `(ANY, None)` where γ is 1.
    """

    gamma: Coordinate
    residual: Coordinate


_MODEL = ("model", None)

_NAMED: Mapping[str, Callable[[Mapping[str, Any]], Position]] = {
    "sft": lambda _: Position(("constant", 1.0), (ANY, None)),
    "dft": lambda _: Position(("probability", None), _MODEL),
    "kd": lambda _: Position(("constant", 0.0), ("teacher", None)),
    "target_sft": lambda hyper: Position(
        ("probability", None)
        if hyper["gamma"] is None
        else ("constant", hyper["gamma"]),
        ("guided", hyper["eta"]),
    ),
    "alpha": lambda hyper: Position(("power", hyper["alpha"]), _MODEL),
    "profit": lambda hyper: Position(("threshold", hyper["tau"]), _MODEL),
    "deft": lambda _: Position(("concentration", None), _MODEL),
    "idft": lambda hyper: Position(("in_distribution", hyper["beta"]), _MODEL),
    "prift": lambda _: Position(("reference_probability", None), _MODEL),
    "label_smoothing": lambda hyper: Position(
        ("constant", _complement(hyper["smoothing"])), ("uniform", None)
    ),
    "kd_h": lambda hyper: Position(
        ("constant", _complement(hyper["kd_weight"])), ("teacher", None)
    ),
}
"""Method -> its position, from its hyper-parameters."""

_AXES = ("custom", "sft", "dft", "kd", "target_sft")
"""Methods whose choices are rows and columns; others appear where both exist."""

_GAMMA_TITLES = {
    "constant": "{}",
    "probability": "p_y",
    "power": "p_y^{}",
    "entropy": "entropy, top {}",
    "threshold": "1[p_y > {}]",
    "concentration": "p_y^Σp²",
    "in_distribution": "IDFT, β {}",
    "reference_probability": "π_ref(y)",
    "column": "a data column",
}
_RESIDUAL_TITLES = {
    "model": "model p",
    "tempered": "tempered {}",
    "uniform": "uniform",
    "teacher": "teacher π_T",
    "reference": "reference",
    "guided": "guided\nη = {}",
    "guided_reference": "guided by\nreference {}",
    "mixed": "mixed\nλ = {}",
}


def plane_data(
    statistics: Statistics, setting: str | None = None
) -> list[dict[str, Any]]:
    """Rows of the map: one per method of a setting that has a position on it.

    Args:
        statistics: all settings.
        setting: name of the setting; None for the one with most composed targets.

    Returns:
        Rows from top to bottom and left to right; scores in per cent. Of several
        methods in one cell the first is the one that is drawn: the composed one, if
        there is one.

    Raises:
        ValueError: no such setting.
    """
    chosen = _select(statistics, setting)
    positions = {
        label: position(score.method, score.hyper)
        for label, score in chosen.scores.items()
    }
    axes = [
        place
        for label, place in positions.items()
        if place and chosen.scores[label].method in _AXES
    ]
    gammas = sorted({place.gamma for place in axes}, key=_gamma_order)
    residuals = sorted({place.residual for place in axes}, key=_residual_order)
    rows = []
    for label, place in positions.items():
        if not place or place.gamma not in gammas or place.residual not in residuals:
            continue
        score = chosen.scores[label]
        rows.append(
            {
                "setting": chosen.name,
                "gamma": title(place.gamma, _GAMMA_TITLES),
                "residual": title(place.residual, _RESIDUAL_TITLES),
                "label": label,
                "method": score.method,
                "named": _name(place),
                "mean": 100 * score.over_problems.value,
                "low": 100 * score.over_problems.low,
                "high": 100 * score.over_problems.high,
                "seeds": len(score.seeds),
                "line": gammas.index(place.gamma),
                "column": residuals.index(place.residual),
            }
        )
    rows.sort(key=lambda r: (r["line"], r["column"], r["method"] != "custom"))
    return rows


def position(method: str, hyper: Mapping[str, Any]) -> Position | None:
    """Position of a method on the plane; None for one that is not on it."""
    if method == "custom":
        hyper = {**METHODS["custom"].defaults, **hyper}
        return Position(_choice(hyper["gamma"]), _choice(hyper["residual"]))
    if method not in _NAMED:
        return None
    return _plain(_NAMED[method]({**METHODS[method].defaults, **hyper}))


def title(choice: Coordinate, titles: Mapping[str, str]) -> str:
    """Title of a row or column."""
    name, number = choice
    text = f"{number:g}" if isinstance(number, int | float) else str(number)
    return titles.get(name, name).format(text)


def _choice(value: Any) -> Coordinate:
    """Name and number of a choice; the default number where there is none."""
    if isinstance(value, int | float):
        return "constant", float(value)
    name, number = (
        next(iter(value.items())) if isinstance(value, Mapping) else (value, None)
    )
    option = GAMMAS.get(name) or RESIDUALS.get(name)
    if number is None and option is not None and option.number is not None:
        number = option.number.default
    return name, float(number) if isinstance(number, int) else _hashable(number)


def _complement(share: Any) -> Any:
    """1 − share; a schedule of the share is unchanged."""
    return share if isinstance(share, Mapping) else round(1 - share, 9)


def _plain(place: Position) -> Position:
    """Position with numbers as floats, and schedules as text."""
    (gamma, first), (residual, second) = place.gamma, place.residual
    return Position((gamma, _hashable(first)), (residual, _hashable(second)))


def _hashable(number: Any) -> Any:
    if isinstance(number, int | float):
        return float(number)
    return number if number is None else str(number)


def _select(statistics: Statistics, setting: str | None) -> Setting:
    if setting is not None:
        for candidate in statistics.settings:
            if candidate.name == setting:
                return candidate
        names = ", ".join(candidate.name for candidate in statistics.settings)
        raise ValueError(
            f"the map's setting {setting[:60]!r} has no results; expected one of "
            f"{names}"
        )
    return max(
        statistics.settings,
        key=lambda s: sum(score.method == "custom" for score in s.scores.values()),
    )


def _name(place: Position) -> str:
    """Method of the registry at a position, for some number; "" if none is."""
    for name, locate in _NAMED.items():
        other = _plain(locate(METHODS[name].defaults))
        same_residual = place.residual[0] == other.residual[0]
        # KD and SFT are the two ends of KD-H and of label smoothing.
        is_exact = name in ("sft", "kd") or place.gamma == ("constant", 0.0)
        if same_residual and (
            place.gamma == other.gamma if is_exact else place.gamma[0] == other.gamma[0]
        ):
            return name
    return ""


def _gamma_order(choice: Coordinate) -> tuple[int, bool, Any]:
    return _order(choice, list(GAMMAS))


def _residual_order(choice: Coordinate) -> tuple[int, bool, Any]:
    return _order(choice, [*RESIDUALS, ANY])


def _order(choice: Coordinate, names: list[str]) -> tuple[int, bool, Any]:
    name, number = choice
    is_text = isinstance(number, str)
    value = number if is_text else (number or 0.0)
    return (names.index(name) if name in names else len(names), is_text, value)
