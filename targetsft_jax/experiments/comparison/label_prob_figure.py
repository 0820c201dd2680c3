"""Figure of p_y before and after training, on correct and on wrong labels."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from targetsft_jax.experiments.comparison import style
from targetsft_jax.experiments.comparison.order import family, short

_COLUMNS = 5
_HATCH = "////"


def draw_label_prob(data: Sequence[dict[str, Any]]) -> Any:
    """Draw one panel per label; returns the figure.

    Above the axis the shares of correct labels, below it those of wrong ones.

    Args:
        data: rows of `probe_data.histogram_data`.
    """
    labels = {row["label"]: row["method"] for row in data}
    kinds = {row["labels"] for row in data}
    columns = min(_COLUMNS, len(labels))
    lines = -(-len(labels) // columns)
    figure = style.canvas(style.WIDTH, 1.3 + 1.35 * lines)
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.ravel()[len(labels) :]:
        axis.axis("off")
    for axis, (label, method) in zip(axes.ravel(), labels.items()):
        _panel(
            axis, [r for r in data if r["label"] == label], style.colour(family(method))
        )
        axis.set_title(_title(label), fontsize=style.LABEL)
    for number, axis in enumerate(axes.ravel()[: len(labels)]):
        if number + columns >= len(labels):
            axis.tick_params(labelbottom=True)
            axis.set_xlabel("p_y")
    highest = max(row["share"] for row in data)
    _shares_axis(axes[0, 0], highest, "corrupted" in kinds)
    figure.legend(
        handles=_handles("corrupted" in kinds), loc="outside lower center", ncols=4
    )
    setting = data[0]["setting"]
    figure.suptitle(
        f"{setting + ': ' if setting else ''}probability of the label before and after "
        "training, shares of tokens (square-root scale)",
        fontsize=style.TITLE + 1,
    )
    return figure


def _panel(axis: Any, data: Sequence[dict[str, Any]], colour: str) -> None:
    for kind, sign in (("clean", 1), ("corrupted", -1)):
        for time in ("before", "after"):
            rows = [r for r in data if r["labels"] == kind and r["time"] == time]
            if not rows:
                continue
            edges = [rows[0]["low"], *(row["high"] for row in rows)]
            # Square roots keep a share of 1 % visible next to one of 60 %.
            heights = sign * np.sqrt([row["share"] for row in rows])
            if time == "before":
                axis.stairs(heights, edges, color="black", linewidth=0.9, zorder=3)
            elif kind == "clean":
                axis.stairs(heights, edges, color=colour, fill=True, alpha=0.75)
            else:
                axis.stairs(
                    heights,
                    edges,
                    fill=True,
                    facecolor="white",
                    edgecolor=colour,
                    hatch=_HATCH,
                )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlim(0, 1)
    axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])


def _shares_axis(axis: Any, highest: float, has_wrong: bool) -> None:
    """Set limits and ticks of the vertical axis, whose unit is the root of a share."""
    limit = 1.1 * np.sqrt(highest)
    ticks = {0.0: "0"}
    for share in (1.0, 0.5, 0.25, 0.1, 0.03):
        place = float(np.sqrt(share))
        if place <= limit and min(abs(place - t) for t in ticks) > 0.28 * limit:
            ticks[place] = f"{share:.0%}"
            if has_wrong:
                ticks[-place] = f"{share:.0%}"
    axis.set_yticks(list(ticks), list(ticks.values()))
    axis.set_ylim(-limit if has_wrong else 0, limit)


def _handles(has_wrong: bool) -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    grey = "#777777"
    handles: list[Any] = [
        Line2D([], [], color="black", linewidth=0.9, label="before training"),
        Patch(color=grey, label="after, correct labels" + " (up)" * has_wrong),
    ]
    if has_wrong:
        handles.append(
            Patch(
                facecolor="white",
                edgecolor=grey,
                hatch=_HATCH,
                label="after, wrong labels (down)",
            )
        )
    return handles


def _title(label: str) -> str:
    """Label in at most two lines."""
    text = short(label)
    return text.replace(" ", "\n", 1) if len(text) > 24 else text
