"""Start of a command's work in one process; several processes: tests/training."""

import jax
import pytest

from targetsft_jax.parallel import launch as launch_module
from targetsft_jax.parallel import processes
from targetsft_jax.parallel.launch import launch


@pytest.mark.parametrize("result, code", [(None, 0), (0, 0), (3, 3)])
def test_the_exit_code_is_that_of_the_action(result, code):
    assert launch(lambda: result) == code


def test_errors_of_a_single_process_pass_to_the_shell():
    def action() -> None:
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        launch(action)


def test_the_mesh_keys_reach_the_processes(monkeypatch):
    calls = []

    def initialize(*arguments, **options):
        calls.append((arguments, options))
        return False

    monkeypatch.setattr(processes, "initialize", initialize)
    options = {"coordinator": "h:1", "processes": 2, "process": 1}
    launch(lambda: None, **options, join_seconds=7, heartbeat_seconds=3)
    assert calls == [(("h:1", 2, 1), {"timeout": 7, "heartbeat": 3})]


@pytest.mark.parametrize(
    "error, code, printed",
    [
        (ValueError("bad row"), 1, "error: bad row"),
        (
            jax.errors.JaxRuntimeError("Gloo failed\nx"),
            75,
            "error: Gloo failed; if another",
        ),
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
            1,
            "error: RESOURCE_EXHAUSTED",
        ),
        (RuntimeError("a defect"), 1, "Traceback"),
    ],
)
def test_a_failed_process_of_several_ends_at_once(
    monkeypatch, capsys, error, code, printed
):
    """Without an orderly exit, which would wait for the other processes."""

    class Exit(BaseException):
        pass

    def exit_now(status):
        raise Exit(status)

    monkeypatch.setattr(processes, "initialize", lambda *_, **__: True)
    monkeypatch.setattr(launch_module.os, "_exit", exit_now)

    def action() -> None:
        raise error

    with pytest.raises(Exit) as status:
        launch(action)
    assert status.value.args == (code,)
    streams = capsys.readouterr()
    assert printed in streams.err
    assert "process 0 failed; terminating all processes" in streams.err
