"""Registry of metrics: names, units, formats, titles, descriptions.

The printed line and its legend, the panels of a figure, the table of `report` and the
table in docs/observability.md are generated from METRICS. Every metric of a step has an
entry; `validation_NAME`, its mean over held-out rows, is derived from it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from targetsft_jax.config.schema import VALIDATION_PREFIX

Format = Callable[[float], str]


def compact(value: float) -> str:
    """Format with three significant digits: `0.042`, `18.7`, `2.5k`, `1.25M`."""
    for suffix in ("", "k", "M"):
        if not abs(value) >= 999.5:  # NaN too
            return f"{value:.3g}{suffix}"
        value /= 1000
    return f"{value:.3g}G"


def digits(number: int) -> Format:
    """Return the fixed-point format with `number` decimal places."""
    return f"{{:.{number}f}}".format


SCIENTIFIC: Format = "{:.1e}".format
PERCENT: Format = "{:.0%}".format
COUNT: Format = "{:,.0f}".format


@dataclass(frozen=True)
class Metric:
    """One number per step; METRICS has the order of the printed line and the table.

    Attributes:
        name: key in metrics.jsonl.
        label: short name in the printed line, its legend and the report table.
        description: noun phrase for the documentation.
        unit: unit; empty for a dimensionless number.
        line: format in the printed line; None: not printed.
        legend: explanation of the label; None: the label needs none.
        plot: title of its panel; None: not drawn.
        logarithmic: logarithmic scale of the panel.
        table: format in the report table; None: no column.
        total: report the sum over all steps instead of the newest value.
        held_out: `validation_NAME` is in the printed line and the table, too.
        histogram: title of the histogram over target tokens; None: no histogram.
    """

    name: str
    label: str
    description: str
    unit: str = ""
    line: Format | None = None
    legend: str | None = None
    plot: str | None = None
    logarithmic: bool = False
    table: Format | None = None
    total: bool = False
    held_out: bool = False
    histogram: str | None = None


_ROWS = (
    Metric(
        "loss",
        "loss",
        "value of the method's own objective; not comparable across methods",
        line=digits(4),
        legend="the method's own objective",
        plot="loss (the method's own objective)",
        table=digits(4),
        held_out=True,
    ),
    Metric(
        "nll",
        "nll",
        "−log p_y, negative log-likelihood of the label; comparable across methods",
        unit="nats",
        line=digits(4),
        legend="−log p_y of the label (nats)",
        plot="NLL of the label, nats",
        table=digits(4),
        held_out=True,
    ),
    Metric(
        "gamma",
        "γ",
        "weight of the label in the target",
        line=digits(3),
        legend="weight of the label in the target",
        plot="γ, weight of the label in the target",
        table=digits(3),
        histogram="γ",
    ),
    Metric(
        "strength",
        "A",
        "strength A = a + b of the logit gradient; 1 for SFT",
        line=digits(3),
        legend="strength a + b of the logit gradient (SFT: 1)",
        plot="A = a + b, strength of the logit gradient",
    ),
    Metric(
        "negative_mass",
        "neg mass",
        "negative mass −Σ min(Q, 0) of the target; 0 where Q is a distribution",
        line=SCIENTIFIC,
        legend="negative mass of the target (0: a distribution)",
        plot="negative mass of the target",
    ),
    Metric(
        "label_prob",
        "p_y",
        "probability of the label under the student",
        plot="p_y, probability of the label",
        histogram="p_y",
    ),
    Metric(
        "accuracy",
        "accuracy",
        "share of target tokens whose label is the student's most probable token",
        plot="share of labels that are most probable",
    ),
    Metric(
        "entropy",
        "H",
        "entropy of the student's prediction",
        unit="nats",
        line=digits(3),
        legend="entropy of the student (nats)",
        plot="entropy of the student, nats",
        histogram="entropy, nats",
    ),
    Metric(
        "kl_teacher",
        "KL_T",
        "KL(teacher ‖ student); methods with a teacher",
        unit="nats",
        line=digits(3),
        legend="KL(teacher ‖ student) (nats)",
        plot="KL(teacher ‖ student), nats",
    ),
    Metric(
        "kl_reference",
        "KL_ref",
        "KL(reference ‖ student); methods with a reference model",
        unit="nats",
        line=digits(3),
        legend="KL(reference ‖ student) (nats)",
        plot="KL(reference ‖ student), nats",
    ),
    Metric(
        "router_aux",
        "aux",
        "load-balancing loss of the student's routers, before its weight; k for a "
        "balanced router of k experts per token; students with experts",
        line=digits(4),
        legend="load-balancing loss of the routers (k: balanced)",
        plot="load-balancing loss of the routers",
    ),
    Metric(
        "router_load",
        "load",
        "tokens of the busiest expert over the mean of all experts, averaged over "
        "layers; 1 is balanced; students with experts",
        line=digits(2),
        legend="load of the busiest expert over the mean (1: balanced)",
        plot="load of the busiest expert over the mean",
    ),
    Metric(
        "grad_norm",
        "|g|",
        "global norm of the gradient before clipping",
        line=digits(3),
        legend="gradient norm before clipping",
        plot="gradient norm before clipping",
        logarithmic=True,
    ),
    Metric(
        "learning_rate",
        "lr",
        "learning rate of the step",
        line=SCIENTIFIC,
        legend="learning rate",
        plot="learning rate",
    ),
    Metric(
        "schedule",
        "schedule",
        "value of the first hyper-parameter that has a schedule; absent without one",
        plot="scheduled hyper-parameter",
    ),
    Metric(
        "epoch",
        "epoch",
        "passes over the data after the step",
        unit="epochs",
        line=digits(2),
        legend="passes over the data",
    ),
    Metric(
        "tokens_per_second",
        "tok/s",
        "`tokens` / `seconds`, over all devices",
        unit="tokens/s",
        line=compact,
        legend="tokens per second, all devices",
        plot="tokens per second, all devices",
        table=COUNT,
    ),
    Metric(
        "tokens",
        "tokens",
        "tokens of the step's rows without padding",
        unit="tokens",
    ),
    Metric(
        "target_tokens",
        "target tokens",
        "tokens that contribute to the loss",
        unit="tokens",
    ),
    Metric(
        "seconds",
        "seconds",
        "wall time of the step, including the wait for data, excluding compilation, "
        "checkpoints and validation",
        unit="s",
    ),
    Metric(
        "data_wait",
        "data wait",
        "share of `seconds` spent waiting for the batch",
    ),
    Metric(
        "skipped",
        "skipped",
        "1 if loss or gradient was not finite and the parameters did not change",
        table=COUNT,
        total=True,
    ),
    Metric(
        "spike",
        "spikes",
        "1 if the loss was far above the running median (`train.spike_deviations`)",
    ),
    Metric(
        "goodput",
        "goodput",
        "share of the run's wall time spent in steps so far",
        line=PERCENT,
        legend="share of the wall time spent in steps",
        table=PERCENT,
    ),
)

METRICS = {metric.name: metric for metric in _ROWS}
"""name -> Metric, in the order of the printed line."""


_LOSS = (
    *("loss", "nll", "gamma", "strength", "negative_mass", "label_prob"),
    *("accuracy", "entropy", "kl_teacher", "kl_reference"),
)


def selecting_names(models: Iterable[str]) -> list[str]:
    """List the metrics whose lowest value can select a checkpoint.

    Args:
        models: models whose logits the loss reads: "teacher", "reference".

    Returns:
        Names of scalars that the train step computes, then of those measured on
        held-out rows.
    """
    absent = {"kl_teacher", "kl_reference"} - {f"kl_{model}" for model in models}
    names = [name for name in METRICS if name in _LOSS and name not in absent]
    step = ("grad_norm", "tokens", "target_tokens", "skipped")
    return [*names, *step, *(VALIDATION_PREFIX + name for name in names)]


def held_out(metric: Metric) -> Metric:
    """Derive `validation_NAME`, the mean of a metric over held-out rows."""
    return replace(
        metric,
        name=VALIDATION_PREFIX + metric.name,
        label=f"val {metric.label}",
        description=f"{metric.description}; mean over the held-out rows",
        plot=None,
        histogram=None,
    )


def find_metric(name: str) -> Metric:
    """Look up a metric by its name in metrics.jsonl, `validation_NAME` included.

    Raises:
        KeyError: METRICS has no such metric.
    """
    if name.startswith(VALIDATION_PREFIX):
        return held_out(METRICS[name.removeprefix(VALIDATION_PREFIX)])
    return METRICS[name]


def line_metrics() -> list[Metric]:
    """List the metrics of the printed line: training first, then held-out."""
    printed = [metric for metric in METRICS.values() if metric.line]
    return printed + [held_out(metric) for metric in printed if metric.held_out]


def table_metrics() -> list[Metric]:
    """List the columns of the report table; NAME precedes `validation_NAME`."""
    return [
        column
        for metric in METRICS.values()
        if metric.table
        for column in ([metric, held_out(metric)] if metric.held_out else [metric])
    ]


def legend(width: int = 88) -> str:
    """Format `label: explanation` of all printed metrics, wrapped at `width`."""
    entries = [
        f"{m.label}: {m.legend}" for m in METRICS.values() if m.line and m.legend
    ]
    lines: list[str] = []
    for entry in entries:
        longer = f"{lines[-1]} · {entry}" if lines else ""
        if lines and len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(entry)
    return "\n".join(lines)


def markdown_table(metrics: Iterable[Metric] = METRICS.values()) -> str:
    """Render the table of metrics in docs/observability.md."""
    rows = ["| metric | label | unit | meaning |", "|---|---|---|---|"]
    for metric in metrics:
        label = metric.label.replace("|", "\\|")
        cells = (f"`{metric.name}`", label, metric.unit, metric.description)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)
