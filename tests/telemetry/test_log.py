"""Rows of metrics.jsonl, histograms.jsonl and sinks."""

import numpy as np
import pytest

from targetsft_jax.loss.histogram import BINS, EDGES
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry import log as log_module
from targetsft_jax.telemetry.log import RunLog

SHARES = np.linspace(0, 1, BINS) / np.linspace(0, 1, BINS).sum()


def _metrics(loss=2.0, **more):
    scalars = {"loss": loss, "nll": 1.0, "tokens": 100.0, "skipped": 0.0}
    return scalars | {"histogram_gamma": SHARES} | more


class _Sink:
    def __init__(self):
        self.rows, self.histograms, self.closed = [], [], False

    def scalars(self, step, row):
        self.rows.append((step, dict(row)))

    def histogram(self, step, name, shares, edges):
        self.histograms.append((step, name, shares, edges))

    def close(self):
        self.closed = True


def test_files_and_sinks_have_the_same_numbers(tmp_path, capsys):
    sink, run_dir = _Sink(), RunDir(tmp_path)
    log = RunLog(run_dir, steps=6, start=0, every=4, sinks=[sink])
    for step in range(1, 7):
        log.write(step, _metrics(loss=float("nan") if step == 2 else step))
    log.close()
    rows = jsonl.read(run_dir.metrics)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[1]["loss"] is None and rows[2]["loss"] == 3
    assert [step for step, _ in sink.rows] == [1, 2, 3, 4, 5, 6]
    for row, (_, scalars) in zip(rows, sink.rows):
        finite = {k: None if v != v else v for k, v in scalars.items()}
        assert row == {"step": row["step"], **finite}
        assert not any(name.startswith("histogram") for name in row)
    # Histograms are written with the printed lines: the first, every fourth, the last.
    histograms = jsonl.read(run_dir.histograms)
    assert [row["step"] for row in histograms] == [1, 4, 6]
    assert [step for step, *_ in sink.histograms] == [1, 4, 6]
    np.testing.assert_allclose(histograms[0]["gamma"], SHARES, atol=1e-6)
    assert sink.histograms[0][3] is EDGES["gamma"] and sink.closed
    output = capsys.readouterr().out
    assert output.count("step ") == 3 and "goodput" in output


def test_non_finite_histograms_are_written_to_the_file_only(tmp_path):
    sink, run_dir = _Sink(), RunDir(tmp_path)
    log = RunLog(run_dir, steps=1, start=0, every=1, sinks=[sink])
    log.write(1, _metrics(histogram_entropy=np.full(BINS, np.nan)))
    log.close()
    (row,) = jsonl.read(run_dir.histograms)
    assert row["entropy"] == [None] * BINS
    assert [name for _, name, *_ in sink.histograms] == ["gamma"]


def test_repeated_steps_are_dropped_and_their_time_is_lost_to_the_restart(
    tmp_path, monkeypatch, capsys
):
    now, run_dir = [50.0], RunDir(tmp_path)
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: now[0])
    log = RunLog(run_dir, steps=9, start=0, every=1)
    for step in range(1, 6):
        now[0] += 2
        log.write(step, _metrics())
    log.close()
    with run_dir.metrics.open("a") as file:
        file.write('{"step": 6, "lo')
    log = RunLog(run_dir, steps=9, start=3, every=1)
    assert "resumed from the checkpoint of step 3" in capsys.readouterr().out
    for path in (run_dir.metrics, run_dir.histograms):
        assert [row["step"] for row in jsonl.read(path)] == [1, 2, 3]
    assert log.clock.seconds["steps"] == 6
    assert log.clock.seconds["restart"] == 4
    log.close()


def test_seconds_exclude_checkpoints_and_include_the_wait_for_data(
    tmp_path, monkeypatch
):
    now, run_dir = [0.0], RunDir(tmp_path)
    monkeypatch.setattr(log_module.time, "perf_counter", lambda: now[0])
    log = RunLog(run_dir, steps=2, start=0, every=1)
    with log.clock.lost_to("save"):
        now[0] += 30
    with log.clock.lost_to("data"):
        now[0] += 1
    now[0] += 4
    log.write(1, _metrics())
    (row,) = jsonl.read(run_dir.metrics)
    assert row["seconds"] == 5 and row["tokens_per_second"] == 20
    assert row["data_wait"] == pytest.approx(0.2)
    log.close()
