"""Loss spikes against medians of the standard library; the log of anomalies."""

import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.storage import jsonl
from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry.anomalies import MIN_HISTORY, Anomalies, is_spike

losses = st.floats(0.01, 100)
histories = st.lists(losses, min_size=MIN_HISTORY, max_size=80)


@given(losses, histories)
def test_a_spike_exceeds_the_documented_threshold(loss, history):
    """Away from the threshold by more than rounding."""
    median = statistics.median(history)
    deviation = 1.4826 * statistics.median([abs(x - median) for x in history])
    threshold = median + 8 * max(deviation, 0.01 * median)
    if abs(loss - threshold) > 1e-9 * threshold:
        assert is_spike(loss, history, 8) == (loss > threshold)


@given(losses, histories, st.randoms(), st.integers(-8, 8))
def test_spikes_do_not_depend_on_order_or_scale(loss, history, rng, power):
    shuffled = list(history)
    rng.shuffle(shuffled)
    scale = 2.0**power
    scaled = [scale * x for x in shuffled]
    assert is_spike(scale * loss, scaled, 8) == is_spike(loss, history, 8)


@given(st.floats(1, 4), st.integers(MIN_HISTORY, 60), st.data())
def test_earlier_spikes_do_not_hide_a_spike(level, length, data):
    """While most losses are ordinary; mean and standard deviation would fail."""
    wild = data.draw(st.lists(st.floats(50, 1e6), max_size=(length - 1) // 2))
    history = wild + [level] * (length - len(wild))
    assert is_spike(level * 1.1, history, 8)
    assert not is_spike(level * 1.05, history, 8)


def test_no_spike_without_history_or_with_detection_disabled():
    assert not is_spike(1e9, [1.0] * (MIN_HISTORY - 1), 8)
    assert not is_spike(1e9, [1.0] * MIN_HISTORY, 0)
    assert is_spike(1e9, [1.0] * MIN_HISTORY, 8)
    assert not is_spike(float("nan"), [1.0] * MIN_HISTORY, 8)


def _anomalies(folder, messages, earlier=()):
    """Detector of a run with the earlier steps `earlier`."""
    rows = [row | {"step": number} for number, row in enumerate(earlier, 1)]
    run_dir = RunDir(folder)
    run_dir.metrics.unlink(missing_ok=True)
    with jsonl.Writer(run_dir.metrics) as writer:
        for row in rows:
            writer.append(row)
    return Anomalies(
        run_dir,
        len(earlier),
        TrainConfig(spike_window=32, spike_deviations=8),
        examples_of=lambda step: [f"d.jsonl:{step}{n:02d}" for n in range(22)],
        message=messages.append,
    )


def _pass(anomalies, step, row):
    flags = anomalies.check(row)
    anomalies.record(step, row | flags)
    return flags


def test_anomalies_are_printed_and_logged_with_their_examples(tmp_path):
    messages = []
    anomalies = _anomalies(tmp_path, messages)
    row = {"loss": np.float32(2.0), "skipped": 0}
    for step in range(1, 20):
        assert _pass(anomalies, step, row) == {"spike": 0}
    assert not (tmp_path / "anomalies.jsonl").exists()
    assert _pass(anomalies, 20, row | {"loss": 5.0}) == {"spike": 1}
    skipped = row | {"loss": float("nan"), "skipped": 1}
    assert _pass(anomalies, 21, skipped) == {"spike": 0}
    assert _pass(anomalies, 22, row) == {"spike": 0}
    anomalies.close()
    assert messages[0].startswith("step 20: loss spike (5); 22 examples: d.jsonl:2000,")
    assert messages[0].endswith("d.jsonl:2019 and 2 more")
    assert messages[1].startswith("step 21: loss or gradient not finite, step skipped;")
    assert messages[2].startswith("skipped steps: 1, loss spikes: 1")
    rows = jsonl.read(tmp_path / "anomalies.jsonl")
    assert [(r["step"], r["kind"], r["loss"]) for r in rows] == [
        (20, "spike", 5.0),
        (21, "skipped", None),
    ]
    assert all(len(row["examples"]) == 22 for row in rows)


def test_a_resumed_run_detects_the_same_spikes(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"loss": float(x), "skipped": 0} for x in rng.normal(2, 0.1, 60)]
    rows[50]["loss"] = 9.0
    uninterrupted = _anomalies(tmp_path, [])
    flags = [_pass(uninterrupted, n, row) for n, row in enumerate(rows, 1)]
    assert sum(flag["spike"] for flag in flags) == 1
    assert [row["step"] for row in jsonl.read(tmp_path / "anomalies.jsonl")] == [51]
    resumed = _anomalies(tmp_path, [], rows[:45])
    # Rows after the checkpoint are dropped: their steps are repeated.
    assert jsonl.read(tmp_path / "anomalies.jsonl") == []
    assert [_pass(resumed, n, r) for n, r in enumerate(rows[45:], 46)] == flags[45:]
    assert [row["step"] for row in jsonl.read(tmp_path / "anomalies.jsonl")] == [51]
