"""SIGTERM handling: the first signal is recorded, the second one ends the process."""

import signal
import threading

import pytest

from targetsft_jax.command import DONE, run_command
from targetsft_jax.parallel.preemption import Preempted, StopSignal


@pytest.fixture
def handler():
    """A handler of SIGTERM that counts, in place of the one that ends the process."""
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    yield received
    signal.signal(signal.SIGTERM, previous)


def test_the_first_signal_is_recorded_and_the_second_one_passes(handler):
    with StopSignal() as stop:
        assert not stop.requested
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested and handler == []
        signal.raise_signal(signal.SIGTERM)
        assert handler == [1]


def test_the_previous_handler_returns(handler):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_other_threads_leave_the_handlers_alone(handler):
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def work():
        with StopSignal():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]


def test_being_preempted_is_a_success_with_its_step(capsys):
    def action(_: list[str]) -> None:
        raise Preempted(7)

    assert run_command(action, []) == DONE
    assert "stopped after step 7 (checkpoint saved)" in capsys.readouterr().out
