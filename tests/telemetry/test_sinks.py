"""TensorBoard files read back; W&B with a fake module."""

import sys
import types

import numpy as np
import pytest

from targetsft_jax.config.schema import LogConfig
from targetsft_jax.loss.histogram import BINS, EDGES
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.sinks import make_sinks, record_scores

SHARES = np.linspace(0, 1, BINS) / np.linspace(0, 1, BINS).sum()


def _record(sinks, step, **row):
    for sink in sinks:
        sink.scalars(step, row)
        sink.histogram(step, "gamma", SHARES, EDGES["gamma"])
        sink.close()


SESSION_START = 1


def _events(path):
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    while data:  # length [8], its checksum [4], an event, its checksum [4]
        size = int.from_bytes(data[:8], "little")
        yield Event.FromString(data[12 : 12 + size])
        data = data[16 + size :]


def test_tensorboard_has_scalars_and_histograms(tmp_path):
    sinks = make_sinks(LogConfig(), RunDir(tmp_path), 0, {})
    _record(sinks, 1, loss=0.75, validation_nll=0.5)
    (path,) = (tmp_path / "tensorboard").iterdir()
    summaries = [event.summary for event in _events(path)]
    values = {value.tag: value for each in summaries for value in each.value}
    assert values["train/loss"].simple_value == 0.75
    assert values["val/nll"].simple_value == 0.5
    histogram = values["histograms/gamma"].histo
    np.testing.assert_allclose(histogram.bucket, SHARES)
    np.testing.assert_allclose(histogram.bucket_limit, EDGES["gamma"][1:])


def test_scores_are_added_without_purging_the_metrics(tmp_path):
    """The session of the scores starts behind the last step."""
    run_dir = RunDir(tmp_path)
    _record(make_sinks(LogConfig(), run_dir, 0, {}), 1, loss=0.75)
    record_scores(LogConfig(), run_dir, 4, {"eval/average_at_k/dft": 37.5}, {})
    events = [
        event
        for path in (tmp_path / "tensorboard").iterdir()
        for event in _events(path)
    ]
    (score,) = [
        (event.step, value.simple_value)
        for event in events
        for value in event.summary.value
        if value.tag == "eval/average_at_k/dft"
    ]
    assert score == (4, 37.5)
    starts = [e.step for e in events if e.session_log.status == SESSION_START]
    assert sorted(starts) == [1, 5]


def test_wandb_is_an_additional_sink_and_continues_its_run(tmp_path, monkeypatch):
    started, calls = [], []

    class Run:
        id = "abc"
        summary: dict[str, float] = {}

        def log(self, row, step):
            calls.append((step, row))

        def finish(self):
            calls.append("finished")

    fake = types.ModuleType("wandb")
    fake.init = lambda **options: started.append(options) or Run()
    fake.Histogram = lambda np_histogram: ("histogram", np_histogram)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run_dir = RunDir(tmp_path)
    for start in (0, 1):
        sinks = make_sinks(LogConfig(wandb="mine"), run_dir, start, {"seed": 3})
        _record(sinks, start + 1, loss=2.0)
    assert calls[0] == (1, {"train/loss": 2.0})
    assert calls[1][1].keys() == {"histograms/gamma"}
    assert [run["id"] for run in started] == [None, "abc"]
    assert started[0]["project"] == "mine" and started[0]["config"] == {"seed": 3}
    assert started[0]["name"] == tmp_path.name
    assert [entry[0] for entry in calls if entry != "finished"] == [1, 1, 2, 2]
    assert calls.count("finished") == 2
    record_scores(LogConfig(wandb="mine"), run_dir, 2, {"eval/average_at_k/a": 3.0}, {})
    assert Run.summary == {"eval/average_at_k/a": 3.0}
    assert started[-1]["id"] == "abc" and calls.count("finished") == 3


def test_a_missing_wandb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"log\.wandb 'mine' needs.*pip install"):
        make_sinks(LogConfig(wandb="mine"), RunDir(tmp_path), 0, {})
