"""Telemetry with metrics as plain dicts, without a model."""

import errno
from itertools import count

import jax
import numpy as np
import pytest

from targetsft_jax.config.schema import LogConfig, TrainConfig
from targetsft_jax.loss.histogram import BINS
from targetsft_jax.parallel import processes
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry import telemetry as module
from targetsft_jax.telemetry.anomalies import Anomalies
from targetsft_jax.telemetry.log import RunLog
from targetsft_jax.telemetry.telemetry import Telemetry


def _metrics(loss=2.0, skipped=0.0, **more):
    return {"loss": loss, "tokens": 100.0, "skipped": skipped} | more


def _telemetry(folder, *, start=0, steps=9, log=None, **train):
    return Telemetry(
        RunDir(folder),
        steps=steps,
        start=start,
        train=TrainConfig(**{"log_every": 1} | train),
        log=log or LogConfig(),
        examples_of=lambda step: [f"d.jsonl:{step}"],
        about={"seed": 3},
    )


def _steps(folder):
    return [row["step"] for row in jsonl.read(RunDir(folder).metrics)]


def test_a_step_is_recorded_when_the_next_one_is_dispatched(tmp_path):
    telemetry = _telemetry(tmp_path)
    assert telemetry.step(1, _metrics()) is None and _steps(tmp_path) == []
    recorded = telemetry.step(2, _metrics(loss=3.0))
    assert recorded["loss"] == 2 and recorded["spike"] == 0
    assert _steps(tmp_path) == [1]
    # A pending step is dropped at an error: the next session repeats it.
    telemetry.close()
    assert _steps(tmp_path) == [1]


def test_flush_records_the_pending_step_once_with_extra_metrics(tmp_path, capsys):
    telemetry = _telemetry(tmp_path)
    telemetry.step(1, _metrics())
    metrics = telemetry.flush({"validation_loss": 1.25})
    assert metrics["validation_loss"] == 1.25
    assert telemetry.step(2, _metrics()) is None
    assert _steps(tmp_path) == [1]
    assert jsonl.read(RunDir(tmp_path).metrics)[0]["validation_loss"] == 1.25
    telemetry.flush()
    with pytest.raises(RuntimeError, match="no step is pending"):
        telemetry.flush()
    telemetry.close()
    assert _steps(tmp_path) == [1, 2]
    assert "val loss 1.2500" in capsys.readouterr().out


def test_metrics_are_fetched_to_the_host(tmp_path):
    telemetry = _telemetry(tmp_path)
    shares = jax.numpy.full(BINS, 1 / BINS)
    telemetry.step(1, _metrics(loss=jax.numpy.float32(0.5), histogram_gamma=shares))
    metrics = telemetry.flush()
    assert not any(isinstance(value, jax.Array) for value in metrics.values())
    telemetry.close()
    (row,) = jsonl.read(RunDir(tmp_path).histograms)
    np.testing.assert_allclose(row["gamma"], shares, atol=1e-6)


@pytest.mark.parametrize("primary", [True, False])
def test_too_many_skipped_steps_in_a_row_end_the_run(tmp_path, monkeypatch, primary):
    """In every process: otherwise the others would wait for one that has ended."""
    monkeypatch.setattr(processes, "is_primary", lambda: primary)
    telemetry = _telemetry(tmp_path, max_skipped_steps=3)
    for number, skipped in enumerate([1, 1, 0, 1, 1], 1):
        telemetry.step(number, _metrics(skipped=skipped))
    telemetry.step(6, _metrics(skipped=1))
    with pytest.raises(ValueError, match="3 consecutive steps, 4 to 6") as refusal:
        telemetry.flush()
    for word in ("train.learning_rate", "anomalies.jsonl", "train.max_skipped_steps"):
        assert word in str(refusal.value)
    telemetry.close()
    assert (tmp_path / "anomalies.jsonl").exists() == primary


def test_only_the_primary_process_writes_and_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(processes, "is_primary", lambda: False)
    log = LogConfig(profile_from=1, wandb="not installed")
    telemetry = _telemetry(tmp_path, log=log)
    with telemetry.dispatch(1):
        pass
    telemetry.step(1, _metrics())
    telemetry.message("a message")
    assert telemetry.flush()["loss"] == 2
    telemetry.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""


def test_skipped_steps_are_logged_with_their_examples(tmp_path, capsys):
    telemetry = _telemetry(tmp_path)
    telemetry.step(1, _metrics(loss=float("nan"), skipped=1.0))
    telemetry.flush()
    telemetry.close()
    (row,) = jsonl.read(RunDir(tmp_path).anomalies)
    expected = {"step": 1, "kind": "skipped", "loss": None, "examples": ["d.jsonl:1"]}
    assert row == expected
    output = capsys.readouterr().out
    assert "step 1: loss or gradient not finite" in output
    assert "skipped steps: 1, loss spikes: 0" in output


def test_time_is_attributed_to_its_causes(tmp_path, monkeypatch):
    from targetsft_jax.telemetry import goodput

    now = [0.0]
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: now[0])

    def batches():
        for number in count():
            now[0] += 2
            yield number

    telemetry, source = _telemetry(tmp_path), batches()
    for number in (1, 2):
        assert telemetry.next_batch(source) == number - 1
        with telemetry.dispatch(number):
            now[0] += 10
        telemetry.step(number, _metrics())
    with telemetry.lost_to("save"):
        now[0] += 5
    telemetry.flush()
    telemetry.close()
    seconds = goodput.read_seconds(RunDir(tmp_path))
    assert {cause: s for cause, s in seconds.items() if s} == {
        "steps": 10,
        "data": 4,
        "compile": 10,
        "save": 5,
    }


def test_the_profile_of_a_window_is_reported(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda f: calls.append("start"))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    telemetry = _telemetry(tmp_path, log=LogConfig(profile_from=2, profile_steps=1))
    for number in (1, 2, 3):
        with telemetry.dispatch(number):
            calls.append(number)
        telemetry.step(number, _metrics())
    telemetry.close()
    assert calls == [1, "start", 2, "stop", 3]
    assert f"profile of 1 steps in {tmp_path / 'profile'}" in capsys.readouterr().out


def test_a_full_disk_delays_metrics_and_stops_nothing(tmp_path, monkeypatch, capsys):
    real, full = jsonl.Writer._write, []

    def write(self):
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self)

    monkeypatch.setattr(jsonl.Writer, "_write", write)
    telemetry = _telemetry(tmp_path)
    full.append(True)
    telemetry.step(1, _metrics(loss=float("nan"), skipped=1.0))
    telemetry.step(2, _metrics())
    full.clear()
    telemetry.flush()
    telemetry.close()
    assert "step 1: disk full" in capsys.readouterr().out
    # No row is lost or duplicated.
    assert _steps(tmp_path) == [1, 2]
    assert [row["step"] for row in jsonl.read(RunDir(tmp_path).anomalies)] == [1]


@pytest.mark.parametrize("cls, method", [(RunLog, "write"), (Anomalies, "record")])
def test_other_errors_are_raised(tmp_path, monkeypatch, cls, method):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    telemetry = _telemetry(tmp_path)
    monkeypatch.setattr(cls, method, fail)
    telemetry.step(1, _metrics())
    with pytest.raises(OSError, match="Input/output"):
        telemetry.flush()
    telemetry.close()


def test_everything_is_closed_even_if_one_part_fails(tmp_path, monkeypatch):
    telemetry = _telemetry(tmp_path)
    closed = []

    def fail(self):
        raise OSError("damaged")

    monkeypatch.setattr(Anomalies, "close", fail)
    monkeypatch.setattr(RunLog, "close", lambda self: closed.append("log"))
    monkeypatch.setattr(module.ProfilerWindow, "close", lambda self: closed.append("p"))
    with pytest.raises(OSError, match="damaged"):
        telemetry.close()
    assert closed == ["p", "log"]
