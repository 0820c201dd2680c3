"""A run killed without warning, twenty times, and damaged between."""

import pytest
from support import kills

KILLS = 20


@pytest.mark.slow
def test_kills_at_any_moment_cost_nothing(tmp_path, monkeypatch):
    """The losses and the weights are those of a run that nobody killed."""
    # The sessions have an environment of their own.
    for key in ("XLA_FLAGS", *kills.launched.environment(tmp_path)):
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    outcome = kills.disturb(tmp_path, KILLS)
    assert sum(outcome.kills.values()) == KILLS
    # Some of them at the worst of moments, some on damaged files.
    assert outcome.during_saves >= 3
    assert outcome.damages.total() >= 2
    assert len(outcome.resumed) >= KILLS // 3
    assert outcome.losses_equal and outcome.weights_equal
