"""Arms, statistics, table and figure of `perf/self_teaching.py`.

Intervals are 95 %, Student's over seeds; differences are paired by seed.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from targetsft_jax import palette
from targetsft_jax.evaluation.estimates import Estimate, mean_estimate

TRIAL_SEED = 1000
"""First seed of the trials that select the learning rates."""


@dataclass(frozen=True)
class Arm:
    """A way to train.

    Attributes:
        title: name in the table.
        method: `target.name`.
        hint: key of PROMPTS; empty without a teacher.
        filtered: leave out the rows whose last line is wrong.
        colour, marker, dashed: of its line in the figure.
    """

    title: str
    method: str
    hint: str = ""
    filtered: bool = False
    colour: str = palette.CHARCOAL
    marker: str = "o"
    dashed: bool = False


ARMS = {
    "sft": Arm("SFT", "sft"),
    "filtered": Arm(
        "SFT, rows with a correct answer", "sft", "", True, palette.GREY, "v"
    ),
    "dft": Arm("DFT", "dft", colour=palette.BLUE, marker="s"),
    **{
        f"{method}-{hint}": Arm(
            f"{title}, {text}", method, hint, False, colour, marker, hint != "answer"
        )
        for method, title, colour in (
            ("target_sft", "Target-SFT", palette.WINE),
            ("kd", "KD", palette.GREEN),
        )
        for hint, text, marker in (
            ("answer", "answer in the teacher's prompt", "P"),
            ("stated", "stated answer there", "X"),
            ("none", "no answer there", "D"),
        )
    },
}

PAIRS = (
    ("target_sft-answer", "sft"),
    ("target_sft-answer", "dft"),
    ("target_sft-answer", "filtered"),
    ("target_sft-answer", "target_sft-none"),
    ("kd-answer", "sft"),
    ("kd-answer", "dft"),
    ("kd-answer", "kd-none"),
    ("target_sft-answer", "kd-answer"),
    ("target_sft-stated", "dft"),
    ("target_sft-stated", "target_sft-none"),
    ("kd-stated", "kd-none"),
)
"""Arms to compare: the difference is first − second."""

Row = dict[str, Any]


def best_rate(
    rows: Mapping[str, Row], arm: str, noise: float, rates: Sequence[float]
) -> float:
    """Learning rate with the best mean Average@k of the trials.

    Returns:
        Of equal ones the lower.

    Raises:
        ValueError: no trial of a rate.
    """
    scores = {}
    for rate in sorted(rates):
        trials = [
            row["sampled"]
            for row in rows.values()
            if row["seed"] >= TRIAL_SEED
            and (row["arm"], row.get("noise"), row.get("rate")) == (arm, noise, rate)
        ]
        if not trials:
            raise ValueError(f"{arm} at noise {noise:g} has no trial of rate {rate:g}")
        scores[rate] = np.mean(trials)
    return max(scores, key=lambda rate: scores[rate])


def summary(row: Row) -> str:
    """Measurements of a model, in one line."""
    return (
        f"sampled {100 * row['sampled']:.1f} %, greedy {100 * row['greedy']:.1f} %, "
        f"NLL {row['nll']:.3f}"
    )


def values(
    rows: Sequence[Row], arm: str, noise: float | None, quantity: str
) -> dict[int, float]:
    """Seed -> quantity of an arm, without the trials; noise None: a start model."""
    return {
        row["seed"]: row[quantity]
        for row in rows
        if (row["arm"], row.get("noise")) == (arm, noise) and row["seed"] < TRIAL_SEED
    }


def difference(
    rows: Sequence[Row], one: str, other: str, noise: float, quantity: str
) -> Estimate:
    """Mean over seeds of the difference of two arms, paired by seed.

    Raises:
        ValueError: the arms have other seeds, or none.
    """
    first, second = (values(rows, arm, noise, quantity) for arm in (one, other))
    if not first or first.keys() != second.keys():
        raise ValueError(
            f"{one} and {other} at noise {noise:g} have the seeds {sorted(first)} and "
            f"{sorted(second)}; expected the same ones"
        )
    pairs = [first[seed] - second[seed] for seed in sorted(first)]
    return mean_estimate(np.array(pairs), -np.inf, np.inf)


def write_report(options: argparse.Namespace, rows: Sequence[Row]) -> None:
    """Print and write self_teaching.md, and draw self_teaching.png and .svg."""
    lines = [*score_table(rows, options.noise), "", *pair_table(rows, options.noise)]
    text = "\n".join(lines) + "\n"
    (options.work / "self_teaching.md").write_text(text, encoding="utf-8")
    print("\n" + text)
    draw(options.work, rows, options.noise)


def score_table(rows: Sequence[Row], noises: Sequence[float]) -> Iterator[str]:
    """Lines of a table: mean Average@k, greedy accuracy and NLL by arm and noise."""
    yield (
        "| | "
        + " | ".join(
            f"{100 * noise:g} %: sampled | greedy | NLL | rate" for noise in noises
        )
        + " |"
    )
    yield "|---|" + "---:|" * (4 * len(noises))
    for name, title in (
        ("start", "start model"),
        ("teacher", "start model that sees the answer"),
    ):
        cells = _scores(rows, name, None)
        yield f"| {title} | " + " | ".join([*cells, "–"] * len(noises)) + " |"
    for name, arm in ARMS.items():
        cells = []
        for noise in noises:
            rates = {r["rate"] for r in rows if _is_result(r, name, noise)}
            shown = "/".join(f"{rate:g}" for rate in sorted(rates)) or "–"
            cells += [*_scores(rows, name, noise), shown]
        yield f"| {arm.title} | " + " | ".join(cells) + " |"


def _scores(rows: Sequence[Row], arm: str, noise: float | None) -> list[str]:
    sampled, greedy, nll = (
        list(values(rows, arm, noise, name).values())
        for name in ("sampled", "greedy", "nll")
    )
    if not sampled:
        return ["–"] * 3
    accuracies = [f"{100 * np.mean(x):.1f}" for x in (sampled, greedy)]
    return [*accuracies, f"{np.mean(nll):.3f}"]


def _is_result(row: Row, arm: str, noise: float) -> bool:
    return row["seed"] < TRIAL_SEED and (row["arm"], row.get("noise")) == (arm, noise)


def pair_table(rows: Sequence[Row], noises: Sequence[float]) -> Iterator[str]:
    """Lines of a table: paired differences in points, with intervals."""
    yield (
        "| points, sampled; greedy | "
        + " | ".join(f"{100 * noise:g} %" for noise in noises)
        + " |"
    )
    yield "|---|" + "---|" * len(noises)
    for one, other in PAIRS:
        cells = []
        for noise in noises:
            if not all(values(rows, arm, noise, "sampled") for arm in (one, other)):
                cells.append("–")
                continue
            parts = []
            for quantity in ("sampled", "greedy"):
                gap = difference(rows, one, other, noise, quantity)
                mean, low, high = (100 * x for x in (gap.value, gap.low, gap.high))
                parts.append(f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]")
            cells.append("; ".join(parts))
        yield f"| {ARMS[one].title} − {ARMS[other].title} | " + " | ".join(cells) + " |"


def draw(folder: Path, rows: Sequence[Row], noises: Sequence[float]) -> None:
    """Draw sampled and greedy accuracy against the noise, with intervals."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9.6, 3.9), sharey=True)
    for axis, quantity in zip(axes, ("sampled", "greedy")):
        for number, (name, arm) in enumerate(ARMS.items()):
            known = [n for n in noises if values(rows, name, n, quantity)]
            means = [
                mean_estimate(
                    np.array([*values(rows, name, n, quantity).values()]), 0, 1
                )
                for n in known
            ]
            shift = 0.008 * (number - (len(ARMS) - 1) / 2)
            axis.errorbar(
                [100 * (noise + shift) for noise in known],
                [100 * mean.value for mean in means],
                yerr=[
                    [100 * (mean.value - mean.low) for mean in means],
                    [100 * (mean.high - mean.value) for mean in means],
                ],
                color=arm.colour,
                marker=arm.marker,
                linestyle="--" if arm.dashed else "-",
                linewidth=1.2,
                elinewidth=0.8,
                markersize=5,
                label=arm.title,
            )
        start = [*values(rows, "start", None, quantity).values()]
        axis.axhline(100 * np.mean(start), color=palette.SILVER, label="start model")
        axis.set_title(quantity, fontsize=10)
        axis.set_xlabel("wrong digits in the training responses, %")
        axis.set_xticks([100 * noise for noise in noises])
    axes[0].set_ylabel("held-out accuracy, %")
    axes[1].legend(
        fontsize=7, frameon=False, bbox_to_anchor=(1.02, 1), loc="upper left"
    )
    figure.tight_layout()
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"self_teaching.{suffix}", dpi=110)
