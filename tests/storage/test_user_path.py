"""Paths as users write them."""

from pathlib import Path

from targetsft_jax.storage.user_path import user_path


def test_the_home_of_a_user_is_expanded_and_an_unknown_user_is_not(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert user_path("~/runs") == Path("/home/someone/runs")
    assert user_path("~no_such_user/runs") == Path("~no_such_user/runs")
