"""Tables of a comparison: Markdown for reading, rows of numbers for CSV."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from targetsft_jax.evaluation.estimates import Estimate
from targetsft_jax.experiments.comparison.order import REFERENCES
from targetsft_jax.experiments.comparison.statistics import (
    FEWEST_SEEDS,
    Difference,
    Score,
    Setting,
    Statistics,
)

_MACRO = "mean over settings"
_NONE = "–"


def markdown(statistics: Statistics) -> str:
    """Markdown of all settings: methods × settings, then one table per setting."""
    parts = [_note(statistics)]
    if statistics.macro:
        parts += ["## All settings", _all_settings(statistics)]
    for setting in statistics.settings:
        name = _cell(setting.name) or "Scores"
        parts += [f"## {name}", *_setting(setting, statistics.baseline)]
    return "\n\n".join(parts) + "\n"


def table_rows(statistics: Statistics) -> list[dict[str, Any]]:
    """All numbers, one row per setting and label; scores in per cent.

    The means over settings have the setting "mean over settings".
    """
    rows = [
        _numbers(setting, score, statistics.baseline)
        for setting in statistics.settings
        for score in setting.scores.values()
    ]
    empty = dict.fromkeys(rows[0])
    for label, macro in statistics.macro.items():
        rows.append(
            empty
            | {"setting": _MACRO, "label": label, "method": statistics.labels[label]}
            | {"baseline": statistics.baseline}
            | _estimate("average", macro.average)
            | _estimate("difference", macro.difference)
        )
    return rows


def _numbers(setting: Setting, score: Score, baseline: str) -> dict[str, Any]:
    difference = score.difference
    visible = difference and 100 * difference.smallest_visible
    return {
        "setting": setting.name,
        "label": score.label,
        "method": score.method,
        "baseline": baseline,
        "learning_rates": " ".join(f"{rate:g}" for rate in score.learning_rates),
        "problems": setting.problems,
        "samples": setting.samples,
        "seeds": len(score.seeds),
        **_estimate("average", score.over_problems),
        **_estimate("average_over_seeds", score.over_seeds),
        "seed_lowest": 100 * score.lowest,
        "seed_highest": 100 * score.highest,
        "seed_deviation": 100 * score.deviation,
        **_estimate("difference", difference.over_problems if difference else None),
        **_estimate(
            "difference_over_seeds", difference.over_seeds if difference else None
        ),
        "p_value": difference and difference.p_value,
        "adjusted_p_value": difference and difference.adjusted_p_value,
        "smallest_visible": visible,
        "rank": score.rank,
    }


def _estimate(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    parts = {"": "value", "_se": "standard_error", "_low": "low", "_high": "high"}
    return {
        name + suffix: None if estimate is None else 100 * getattr(estimate, field)
        for suffix, field in parts.items()
    }


def _note(statistics: Statistics) -> str:
    return (
        "Average@k in %; differences in percentage points, to "
        f"`{statistics.baseline}` on the same problems. Intervals are of 95 %. *Over "
        "problems* takes problems as units, with the seeds averaged; *over seeds* "
        f"takes trainings as units, from {FEWEST_SEEDS} seeds on, and alone covers "
        "what another training would give. p-values are of Student's test over "
        "problems, adjusted by Holm's method over the methods of the setting. *Visible "
        "from*: the smallest true difference that this test "
        "finds with a power of 80 %. **Bold**: the best method of the setting; `*`: "
        "its paired interval to the best one contains 0."
    )


def _all_settings(statistics: Statistics) -> str:
    names = [setting.name for setting in statistics.settings]
    header = ["method", *names, _MACRO, "over problems", "difference", "over problems"]
    lines = []
    for label in statistics.labels:
        scores = [setting.scores.get(label) for setting in statistics.settings]
        cells = [_ranked(score) if score else _NONE for score in scores]
        macro = statistics.macro.get(label)
        mean = macro.average if macro else None
        difference = macro.difference if macro else None
        cells += [_percent(mean.value if mean else None), _interval(mean)]
        cells += [
            _signed(difference.value if difference else None),
            _interval(difference, "+"),
        ]
        lines.append([label, *cells])
    return _table(header, lines)


def _setting(setting: Setting, baseline: str) -> Iterator[str]:
    yield (
        f"{setting.problems} problems, {setting.samples} samples per problem and seed."
    )
    header = [
        "method",
        "rate",
        "seeds",
        "Average@k",
        "over problems",
        "over seeds",
        "lowest – highest seed",
        "sd of seeds",
        f"− {baseline}",
        "over problems",
        "over seeds",
        "p",
        "p, Holm",
        "visible from",
    ]
    lines = [
        [
            score.label,
            ", ".join(f"{rate:g}" for rate in score.learning_rates) or _NONE,
            str(len(score.seeds)),
            _ranked(score),
            _interval(score.over_problems),
            _interval(score.over_seeds),
            f"{_percent(score.lowest)} – {_percent(score.highest)}",
            _percent(score.deviation),
            *_difference(score.difference),
        ]
        for score in setting.scores.values()
    ]
    yield _table(header, lines)


def _difference(difference: Difference | None) -> list[str]:
    if difference is None:
        return [_NONE] * 6
    return [
        _signed(difference.over_problems.value),
        _interval(difference.over_problems, "+"),
        _interval(difference.over_seeds, "+"),
        _probability(difference.p_value),
        _probability(difference.adjusted_p_value),
        _percent(difference.smallest_visible),
    ]


def _ranked(score: Score) -> str:
    text = _percent(score.over_problems.value)
    if score.method in REFERENCES:
        return text
    return {"best": f"**{text}**", "tied": f"{text} *"}.get(score.rank, text)


def _percent(share: float | None) -> str:
    return _NONE if share is None or math.isnan(share) else f"{100 * share:.1f}"


def _signed(share: float | None) -> str:
    return _NONE if share is None or math.isnan(share) else f"{100 * share:+.1f}"


def _interval(estimate: Estimate | None, sign: str = "") -> str:
    if estimate is None or math.isnan(estimate.low):
        return _NONE
    return f"{100 * estimate.low:{sign}.1f} to {100 * estimate.high:{sign}.1f}"


def _probability(p: float) -> str:
    if math.isnan(p):
        return _NONE
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = "|---|" + "--:|" * (len(header) - 1)
    rows = [header, *lines]
    text = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([text[0], rule, *text[1:]])


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
