"""Printed line, its legend, and the progress bar."""

import os
import pty
import subprocess
import sys

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


CHILD = """
from targetsft_jax.output import robust_streams
from targetsft_jax.telemetry.progress import Progress
with robust_streams():
    progress = Progress(steps=10, start=2)
    row = {"step": 3, "loss": 1.5, "gamma": 0.25, "tokens_per_second": 18.3}
    progress.line(row, remaining=65)
    progress.advance(row)
    progress.message("one example: ⟦yes⟧")
    progress.close()
"""


def _child(environment: dict[str, str], *, terminal: bool) -> bytes:
    """Output of a progress in a process of its own."""
    command = [sys.executable, "-c", CHILD]
    env = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    env |= {"TERM": "xterm-256color", "COLUMNS": "120"} | environment
    if not terminal:
        result = subprocess.run(command, env=env, capture_output=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout
    parent, child = pty.openpty()
    process = subprocess.Popen(command, env=env, stdout=child, stderr=child)
    os.close(child)
    output = b""
    while True:
        try:
            part = os.read(parent, 4096)
        except OSError:  # The child has closed the terminal.
            break
        output += part
        if not part:
            break
    os.close(parent)
    assert process.wait(60) == 0, output
    return output


def test_a_pipe_that_is_not_unicode_gets_plain_lines():
    output = _child({"PYTHONIOENCODING": "ascii"}, terminal=False)
    assert output.decode("ascii").splitlines() == [
        "step  3/10  loss 1.5000  \\u03b3 0.250  tok/s 18.3  ETA 1:05",
        "one example: \\u27e6yes\\u27e7",
    ]
    assert not any(byte < 32 and byte != 10 for byte in output)


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_has_a_bar_and_colours_unless_refused(no_color):
    environment = {"NO_COLOR": no_color} if no_color else {}
    output = _child(environment | {"PYTHONIOENCODING": "ascii"}, terminal=True)
    assert b"3/10" in output and b"\x1b[" in output
    has_colour = b"\x1b[38;" in output or b"\x1b[3" in output
    assert has_colour == (not no_color), output
