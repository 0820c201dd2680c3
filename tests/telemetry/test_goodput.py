"""The clock of a run against seconds counted by hand."""

import pytest

from targetsft_jax.telemetry import goodput
from targetsft_jax.telemetry.goodput import Clock


@pytest.fixture
def time(monkeypatch):
    """A clock on the wall that stands until it is moved."""

    class Wall:
        now = 100.0

        def pass_(self, seconds):
            self.now += seconds

    wall = Wall()
    monkeypatch.setattr(goodput.time, "perf_counter", lambda: wall.now)
    return wall


def _lose(clock, cause, time, seconds):
    with clock.lost_to(cause):
        time.pass_(seconds)


def test_all_time_is_a_step_or_a_named_loss_over_two_sessions(tmp_path, time):
    time.pass_(3)
    first = Clock(tmp_path, began=100.0)
    _lose(first, "compile", time, 10)
    time.pass_(40)
    _lose(first, "save", time, 2)
    wanted = dict.fromkeys(goodput.LOSSES, 0) | {"start": 3, "compile": 10, "save": 2}
    assert first.seconds == pytest.approx({"steps": 40, **wanted})
    assert first.goodput == pytest.approx(40 / 55)
    first.write(now=True)
    # Killed; an hour later it goes on, and takes steps of 15 seconds again.
    time.pass_(3600)
    began = time.now
    time.pass_(5)
    second = Clock(tmp_path, resumed=True, redone=15.0, began=began)
    time.pass_(20)
    _lose(second, "data", time, 1)
    wanted |= {"restart": 5 + 15, "data": 1}
    assert second.sessions == 2
    assert second.seconds == pytest.approx({"steps": 40 - 15 + 20, **wanted})
    assert sum(second.seconds.values()) == pytest.approx(55 + 26)
    assert "goodput 55.6% of 81 s" in second.line()
    assert "restart 24.7%" in second.line()


def test_time_that_was_lost_is_counted_also_when_it_ends_in_an_error(tmp_path, time):
    clock = Clock(tmp_path)
    with pytest.raises(OSError), clock.lost_to("save"):
        time.pass_(7)
        raise OSError
    assert clock.seconds["save"] == 7


def test_a_fresh_run_forgets_what_lay_there_and_damage_costs_nothing(tmp_path, time):
    old = Clock(tmp_path)
    time.pass_(9)
    old.write(now=True)
    assert Clock(tmp_path).seconds["steps"] == 0
    assert Clock(tmp_path, resumed=True).seconds["steps"] == 9
    for damage in ("", "{", "[]", '{"sessions": 1, "seconds": {"steps": "x"}}'):
        (tmp_path / goodput.FILE).write_text(damage)
        assert Clock(tmp_path, resumed=True).seconds["steps"] == 0


def test_the_file_is_written_at_most_once_a_second(tmp_path, time):
    clock = Clock(tmp_path)
    time.pass_(5)
    clock.write()
    time.pass_(0.5)
    clock.write()
    assert goodput.read(tmp_path)["steps"] == 5
    time.pass_(0.5)
    clock.write()
    assert goodput.read(tmp_path)["steps"] == 6
