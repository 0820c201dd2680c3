"""Losses that leap, and what is said of the steps that went wrong."""

import json
import statistics

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.telemetry.anomalies import FEWEST, FILE, Watch, leaps

losses = st.floats(0.01, 100)
histories = st.lists(losses, min_size=FEWEST, max_size=80)


@given(losses, histories)
def test_a_leap_is_what_the_medians_say(loss, before):
    """By the standard library's medians, away from the border itself."""
    middle = statistics.median(before)
    spread = 1.4826 * statistics.median([abs(x - middle) for x in before])
    border = middle + 8 * max(spread, 0.01 * middle)
    if abs(loss - border) > 1e-9 * border:
        assert leaps(loss, before, 8) == (loss > border)


@given(losses, histories, st.randoms(), st.integers(-8, 8))
def test_neither_order_nor_unit_matters(loss, before, rng, power):
    mixed = list(before)
    rng.shuffle(mixed)
    scale = 2.0**power
    scaled = [scale * x for x in mixed]
    assert leaps(scale * loss, scaled, 8) == leaps(loss, before, 8)


@given(st.floats(1, 4), st.integers(FEWEST, 60), st.data())
def test_earlier_leaps_hide_none(level, length, data):
    """As long as most losses are ordinary; a mean and its deviation would fail here."""
    wild = data.draw(st.lists(st.floats(50, 1e6), max_size=(length - 1) // 2))
    before = wild + [level] * (length - len(wild))
    assert leaps(level * 1.1, before, 8)
    assert not leaps(level * 1.05, before, 8)


def test_nothing_is_a_leap_at_first_or_where_it_is_not_asked_for():
    assert not leaps(1e9, [1.0] * (FEWEST - 1), 8)
    assert not leaps(1e9, [1.0] * FEWEST, 0)
    assert leaps(1e9, [1.0] * FEWEST, 8)
    assert not leaps(float("nan"), [1.0] * FEWEST, 8)


def _watch(folder, said, before=()):
    """After the steps `before`, in a folder that has their metrics."""
    rows = [json.dumps(row | {"step": n}) for n, row in enumerate(before, 1)]
    (folder / "metrics.jsonl").write_text("\n".join(rows))
    return Watch(
        folder,
        len(before),
        TrainConfig(spike_window=32, spike_deviations=8),
        records=lambda step: [f"d.jsonl:{step}{n:02d}" for n in range(22)],
        say=said.append,
    )


def test_what_went_wrong_is_said_with_its_records(tmp_path):
    said = []
    watch = _watch(tmp_path, said)
    row = {"loss": np.float32(2.0), "skipped": 0}
    for step in range(1, 20):
        assert watch.seen(step, row) == {"spike": 0}
    assert watch.seen(20, row | {"loss": 5.0}) == {"spike": 1}
    assert watch.seen(21, row | {"loss": float("nan"), "skipped": 1}) == {"spike": 0}
    assert watch.seen(22, row) == {"spike": 0}
    watch.close()
    assert said[0].startswith("step 20: the loss leapt (5); 22 records: d.jsonl:2000,")
    assert said[0].endswith("d.jsonl:2019 and 2 more")
    assert said[1].startswith("step 21: loss or gradient not finite")
    assert said[2].startswith("1 steps were skipped and 1 losses leapt")
    rows = [json.loads(x) for x in (tmp_path / FILE).read_text().splitlines()]
    assert [(r["step"], r["why"], r["loss"]) for r in rows] == [
        (20, "spike", 5.0),
        (21, "skipped", None),
    ]
    assert all(len(row["records"]) == 22 for row in rows)


def test_a_resumed_run_finds_the_same_leaps(tmp_path):
    rng = np.random.default_rng(0)
    rows = [{"loss": float(x), "skipped": 0} for x in rng.normal(2, 0.1, 60)]
    rows[50]["loss"] = 9.0
    whole = _watch(tmp_path, [])
    flags = [whole.seen(n, row) for n, row in enumerate(rows)]
    assert sum(flag["spike"] for flag in flags) == 1
    again = _watch(tmp_path, [], rows[:45])
    assert [again.seen(n, row) for n, row in enumerate(rows[45:], 45)] == flags[45:]
