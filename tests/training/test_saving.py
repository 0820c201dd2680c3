"""Saves of a large state on a CPU, which shares its buffers with the step."""

import contextlib
import types

import jax.numpy as jnp
import pytest

from targetsft_jax.checkpoints.position import Position
from targetsft_jax.checkpoints.retention import Retention
from targetsft_jax.config.schema import TrainConfig
from targetsft_jax.training import saving
from targetsft_jax.training.state import TrainState


@pytest.mark.parametrize(
    "limit, calls", [(saving.BACKGROUND_BYTES, ["save"]), (100, ["save", "wait"])]
)
def test_a_large_state_is_not_saved_in_the_background(monkeypatch, limit, calls):
    """The next step would otherwise need a second state."""
    monkeypatch.setattr(saving, "BACKGROUND_BYTES", limit)
    called: list[str] = []

    def record(name, messages):
        return lambda *_: called.append(name) or messages

    checkpoints = types.SimpleNamespace(
        save=record("save", ["no space"]), wait=record("wait", []), close=lambda: None
    )
    printed: list[str] = []
    telemetry = types.SimpleNamespace(
        lost_to=lambda _: contextlib.nullcontext(), message=printed.append
    )
    checkpoints.errors = lambda: []
    position = Position(0, 0, 1, "")
    saver = saving.Saver(
        checkpoints, Retention(1, None, None), position, TrainConfig(), 10, telemetry
    )
    state = TrainState(jnp.zeros((), jnp.int32), {"w": jnp.zeros(64)}, {})
    with saver:
        saver.save(state, 2, {}, final=False)
        saver.report_errors()
    assert called == calls
    assert printed == ["no space"]
