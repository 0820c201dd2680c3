"""Printed line, its legend, and the progress bar."""

import pytest

from targetsft_jax.telemetry.metrics import METRICS
from targetsft_jax.telemetry.progress import LEGEND, Progress, clock_time

ROW = {"step": 3, "loss": 1.5, "gamma": 0.25, "tokens_per_second": 18.3, "goodput": 0.5}


def test_a_line_has_the_metrics_in_the_order_of_the_registry(capsys):
    progress = Progress(steps=10, start=2, terminal=False)
    progress.advance(ROW)
    progress.line(ROW | {"validation_nll": 1.25}, remaining=65)
    assert capsys.readouterr().out == (
        "step  3/10  loss 1.5000  γ 0.250  tok/s 18.3  goodput 50%  val nll 1.2500"
        "  ETA 1:05\n"
    )


def test_on_a_terminal_lines_are_above_a_bar(capsys):
    progress = Progress(steps=10, start=2, terminal=True)
    row = ROW | {"tokens_per_second": 2500.0}
    progress.line(row, remaining=None)
    progress.advance(row)
    progress.close()
    output = capsys.readouterr().out
    assert output.index("step  3/10  loss 1.5000") < output.index("3/10", 15)
    assert "tok/s 2.5k  goodput 50%  ETA –" in output


@pytest.mark.parametrize(
    "seconds, text", [(5.9, "0:05"), (3599, "59:59"), (93800, "26:03:20")]
)
def test_time_remaining(seconds, text):
    assert clock_time(seconds) == text


def test_the_legend_explains_every_label_of_the_line():
    entries = LEGEND.replace("\n", " · ").split(" · ")
    assert [entry.partition(": ")[0] for entry in entries] == [
        metric.label for metric in METRICS.values() if metric.line
    ]
    assert all(len(line) <= 88 for line in LEGEND.splitlines())
