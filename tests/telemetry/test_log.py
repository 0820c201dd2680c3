"""What a run writes down, and where it goes."""

import sys
import types

import numpy as np
import pytest

from targetsft_jax.config.schema import LogConfig
from targetsft_jax.loss.histogram import BINS, EDGES
from targetsft_jax.telemetry import log as log_module
from targetsft_jax.telemetry.log import RunLog, read_rows
from targetsft_jax.telemetry.progress import Progress
from targetsft_jax.telemetry.sinks import make_sinks

SHARES = np.linspace(0, 1, BINS) / np.linspace(0, 1, BINS).sum()


def _metrics(loss=2.0, **more):
    numbers = {"loss": loss, "nll": 1.0, "tokens": 100.0, "skipped": 0.0}
    return numbers | {"histogram_gamma": SHARES} | more


class _Sink:
    def __init__(self):
        self.rows, self.spreads, self.closed = [], [], False

    def scalars(self, step, row):
        self.rows.append((step, dict(row)))

    def histogram(self, step, name, shares, edges):
        self.spreads.append((step, name, shares, edges))

    def close(self):
        self.closed = True


def test_files_and_sinks_have_the_same_numbers(tmp_path, capsys):
    sink = _Sink()
    log = RunLog(tmp_path, steps=6, start=0, every=4, sinks=[sink])
    for step in range(1, 7):
        log.write(step, _metrics(loss=float("nan") if step == 2 else step))
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1]["loss"] is None and rows[2]["loss"] == 3
    assert [step for step, _ in sink.rows] == [1, 2, 3, 4, 5, 6]
    for row, (_, sent) in zip(rows, sink.rows):
        sent = {k: None if v != v else v for k, v in sent.items()}
        assert row == {"step": row["step"], **sent}
        assert not any(name.startswith("histogram") for name in row)
    # Histograms go with the printed lines: the first, every fourth, the last.
    spread = read_rows(tmp_path / "histograms.jsonl")
    assert [row["step"] for row in spread] == [1, 4, 6]
    assert [step for step, *_ in sink.spreads] == [1, 4, 6]
    np.testing.assert_allclose(spread[0]["gamma"], SHARES, atol=1e-6)
    assert sink.spreads[0][3] is EDGES["gamma"] and sink.closed
    said = capsys.readouterr().out
    assert said.count("step ") == 3 and "goodput" in said


def test_what_will_be_taken_again_is_dropped_and_counted_as_lost(tmp_path, monkeypatch):
    now = [50.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: now[0])
    log = RunLog(tmp_path, steps=9, start=0, every=1)
    for step in range(1, 6):
        now[0] += 2
        log.write(step, _metrics())
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    log = RunLog(tmp_path, steps=9, start=3, every=1)
    for name in ("metrics.jsonl", "histograms.jsonl"):
        assert [row["step"] for row in read_rows(tmp_path / name)] == [1, 2, 3]
    assert log.clock.seconds["steps"] == 6
    assert log.clock.seconds["restart"] == 4
    log.close()


def test_seconds_of_a_step_leave_out_saves_but_not_the_wait_for_data(
    tmp_path, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: now[0])
    log = RunLog(tmp_path, steps=2, start=0, every=1)
    with log.clock.lost_to("save"):
        now[0] += 30
    with log.clock.lost_to("data"):
        now[0] += 1
    now[0] += 4
    log.write(1, _metrics())
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert row["seconds"] == 5 and row["tokens_per_second"] == 20
    assert row["data_wait"] == pytest.approx(0.2)
    log.close()


def test_on_a_terminal_lines_stand_above_a_bar(capsys):
    progress = Progress(steps=10, start=2, terminal=True)
    row = {"step": 3, "loss": 1.5, "tokens_per_second": 2500.0}
    progress.line(row, goodput=0.5, left=65)
    progress.advance(row, goodput=0.5)
    progress.close()
    said = capsys.readouterr().out
    assert said.index("step  3/10  loss 1.5000") < said.index("3/10", 15)
    assert "2.5k tok/s  good 50%  ETA 1:05" in said


def test_tensorboard_has_scalars_and_histograms(tmp_path):
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter  # noqa: F401

    log = RunLog(
        tmp_path,
        steps=1,
        start=0,
        every=1,
        sinks=make_sinks(LogConfig(), tmp_path, 0, {}),
    )
    log.write(1, _metrics(loss=0.75))
    log.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    values = {}
    data = path.read_bytes()
    while data:  # length [8], its checksum [4], an event, its checksum [4]
        size = int.from_bytes(data[:8], "little")
        for value in Event.FromString(data[12 : 12 + size]).summary.value:
            values[value.tag] = value
        data = data[16 + size :]
    assert values["loss"].simple_value == 0.75
    np.testing.assert_allclose(values["gamma"].histo.bucket, SHARES)
    np.testing.assert_allclose(values["gamma"].histo.bucket_limit, EDGES["gamma"][1:])


def test_wandb_is_one_more_sink_and_goes_on_with_its_run(tmp_path, monkeypatch):
    started, sent = [], []

    class Run:
        id = "abc"

        def log(self, row, step):
            sent.append((step, row))

        def finish(self):
            sent.append("finished")

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: started.append(options) or Run()
    fake.Histogram = lambda np_histogram: ("histogram", np_histogram)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for start in (0, 1):
        sinks = make_sinks(LogConfig(wandb="mine"), tmp_path, start, {"seed": 3})
        log = RunLog(tmp_path, steps=2, start=start, every=1, sinks=sinks)
        log.write(start + 1, _metrics())
        log.close()
    assert [run["id"] for run in started] == [None, "abc"]
    assert started[0]["project"] == "mine" and started[0]["config"] == {"seed": 3}
    assert [entry[0] for entry in sent if entry != "finished"] == [1, 1, 2, 2]
    assert sent.count("finished") == 2


def test_a_wandb_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"log\.wandb is 'mine'.*pip install"):
        make_sinks(LogConfig(wandb="mine"), tmp_path, 0, {})
