"""Summary table of runs: newest metrics and the score, one run per line."""

from targetsft_jax.experiments.runs import Run
from targetsft_jax.telemetry.metrics import table_metrics


def summary_table(runs: list[Run]) -> list[str]:
    """Render a table of the metrics that any run has: a heading, then the runs."""
    columns = [
        metric
        for metric in table_metrics()
        if any(run.summary(metric) is not None for run in runs)
    ]
    has_scores = any(run.score for run in runs)
    heading = ["run", "step", *(metric.label for metric in columns)]
    lines = [heading + ["Average@k"] * has_scores]
    for run in runs:
        values = [(metric.table, run.summary(metric)) for metric in columns]
        cells = ["–" if v is None or not show else show(v) for show, v in values]
        if has_scores:
            score = run.score
            cells.append("–" if score is None else f"{100 * score.average_at_k:.1f} %")
        lines.append([run.name, f"{run.rows[-1]['step']:,}", *cells])
    widths = [max(map(len, column)) for column in zip(*lines)]
    # Names are left-aligned, numbers right-aligned.
    template = "  ".join(["{:<%d}", *["{:>%d}"] * (len(widths) - 1)]) % tuple(widths)
    return [template.format(*line) for line in lines]
