"""TensorBoard files read back; W&B with a fake module."""

import sys
import types

import numpy as np
import pytest

from targetsft_jax.config.schema import LogConfig
from targetsft_jax.loss.histogram import BINS, EDGES
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.sinks import make_sinks

SHARES = np.linspace(0, 1, BINS) / np.linspace(0, 1, BINS).sum()


def _record(sinks, step, **row):
    for sink in sinks:
        sink.scalars(step, row)
        sink.histogram(step, "gamma", SHARES, EDGES["gamma"])
        sink.close()


def test_tensorboard_has_scalars_and_histograms(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    _record(make_sinks(LogConfig(), RunDir(tmp_path), 0, {}), 1, loss=0.75)
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


def test_wandb_is_an_additional_sink_and_continues_its_run(tmp_path, monkeypatch):
    started, calls = [], []

    class Run:
        id = "abc"

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
    assert [run["id"] for run in started] == [None, "abc"]
    assert started[0]["project"] == "mine" and started[0]["config"] == {"seed": 3}
    assert started[0]["name"] == tmp_path.name
    assert [entry[0] for entry in calls if entry != "finished"] == [1, 1, 2, 2]
    assert calls.count("finished") == 2


def test_a_missing_wandb_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"log\.wandb is 'mine'.*pip install"):
        make_sinks(LogConfig(wandb="mine"), RunDir(tmp_path), 0, {})
