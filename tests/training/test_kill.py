"""A run killed twenty times, with damaged files between sessions."""

import jax
import pytest
from support import kills

KILLS = 20


@pytest.mark.slow
def test_kills_at_any_moment_do_not_change_the_result(tmp_path, monkeypatch):
    """Losses and weights equal those of an uninterrupted run."""
    jax.devices()  # With the environment of the tests, which other tests here need.
    # The sessions do not inherit it.
    for key in ("XLA_FLAGS", *kills.launched.environment(tmp_path)):
        monkeypatch.setenv(key, "")
        monkeypatch.delenv(key)
    outcome = kills.disturb(tmp_path, KILLS)
    assert sum(outcome.kills.values()) == KILLS
    # Some kills are during saves, and some sessions have damaged files.
    assert outcome.during_saves >= 3
    assert outcome.damages.total() >= 2
    assert len(outcome.resumed) >= KILLS // 3
    assert outcome.losses_equal and outcome.weights_equal
