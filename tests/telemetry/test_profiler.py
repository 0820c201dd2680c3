"""Profiler window, with recorded calls of the profiler."""

import jax
import pytest

from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.profiler import ProfilerWindow


@pytest.fixture
def calls(monkeypatch):
    calls = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda f: calls.append(f))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    monkeypatch.setattr(jax, "block_until_ready", lambda x: calls.append(x))
    return calls


def _run(window, calls, steps):
    folders = []
    for step in steps:
        window.before(step)
        calls.append(step)
        folders.append(window.after(step, f"outputs {step}"))
    return folders


def test_the_trace_covers_the_window_and_waits_for_its_last_step(calls, tmp_path):
    run_dir = RunDir(tmp_path)
    folders = _run(ProfilerWindow(run_dir, 2, 2), calls, range(1, 5))
    profile = str(run_dir.profile)
    assert calls == [1, profile, 2, 3, "outputs 3", "stop", 4]
    assert folders == [None, None, run_dir.profile, None]


def test_a_run_that_ends_inside_the_window_writes_the_trace(calls, tmp_path):
    window = ProfilerWindow(RunDir(tmp_path), 2, 9)
    _run(window, calls, (1, 2))
    assert window.close() == RunDir(tmp_path).profile and window.close() is None
    assert calls.count("stop") == 1


def test_without_a_window_there_is_no_trace(calls, tmp_path):
    window = ProfilerWindow(RunDir(tmp_path), None, 3)
    assert _run(window, calls, (1, 2, 3)) == [None] * 3
    assert window.close() is None and calls == [1, 2, 3]
