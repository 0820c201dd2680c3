"""Clock of a run against seconds counted by hand."""

import pytest

from targetsft_jax.storage.run_dir import RunDir
from targetsft_jax.telemetry import goodput
from targetsft_jax.telemetry.goodput import Clock


@pytest.fixture
def time(monkeypatch):
    """Fake wall clock, advanced by the test."""

    class Wall:
        now = 100.0

        def pass_(self, seconds):
            self.now += seconds

    wall = Wall()
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: wall.now)
    return wall


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path)


def _lose(clock, cause, time, seconds):
    with clock.lost_to(cause):
        time.pass_(seconds)


def test_seconds_by_cause_add_up_over_two_sessions(run_dir, time):
    time.pass_(3)
    first = Clock(run_dir, began=100.0)
    _lose(first, "compile", time, 10)
    time.pass_(40)
    _lose(first, "save", time, 2)
    expected = dict.fromkeys(goodput.CAUSES, 0) | {"start": 3, "compile": 10, "save": 2}
    assert first.seconds == pytest.approx({"steps": 40, **expected})
    assert first.goodput == pytest.approx(40 / 55)
    first.write(now=True)
    # Killed; resumed an hour later, and 15 seconds of steps are repeated.
    time.pass_(3600)
    began = time.now
    time.pass_(5)
    second = Clock(run_dir, resumed=True, redone=15.0, began=began)
    time.pass_(20)
    _lose(second, "data", time, 1)
    expected |= {"restart": 5 + 15, "data": 1}
    assert second.sessions == 2
    assert second.seconds == pytest.approx({"steps": 40 - 15 + 20, **expected})
    assert sum(second.seconds.values()) == pytest.approx(55 + 26)
    assert "goodput 55.6% of 81 s" in second.summary()
    assert "restart 24.7%" in second.summary()


def test_lost_time_is_counted_when_an_error_is_raised(run_dir, time):
    clock = Clock(run_dir)
    with pytest.raises(OSError), clock.lost_to("save"):
        time.pass_(7)
        raise OSError
    assert clock.seconds["save"] == 7


def test_a_new_run_ignores_the_file_and_a_damaged_file_counts_as_none(run_dir, time):
    first = Clock(run_dir)
    time.pass_(9)
    first.write(now=True)
    assert Clock(run_dir).seconds["steps"] == 0
    assert Clock(run_dir, resumed=True).seconds["steps"] == 9
    times = ["{}", "[]", '{"save": 1}']
    times += [
        f'{{"steps": {s}}}' for s in ('"x"', "NaN", "1e999", "-1", "1" + "0" * 400)
    ]
    damages = [f'{{"sessions": 1, "seconds": {each}}}' for each in times]
    infinite = '{"sessions": Infinity, "seconds": {"steps": 1}}'
    for damage in ("", "{", "[]", "[" * 99_999, infinite, *damages):
        run_dir.goodput.write_text(damage)
        assert Clock(run_dir, resumed=True).seconds["steps"] == 0
        assert goodput.read_seconds(run_dir) == {}


def test_the_file_is_written_at_most_once_a_second(run_dir, time):
    assert goodput.read_seconds(run_dir) == {}
    clock = Clock(run_dir)
    time.pass_(5)
    clock.write()
    time.pass_(0.5)
    clock.write()
    assert goodput.read_seconds(run_dir)["steps"] == 5
    time.pass_(0.5)
    clock.write()
    assert goodput.read_seconds(run_dir)["steps"] == 6
