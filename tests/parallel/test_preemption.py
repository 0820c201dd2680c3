"""Signals of a run: raised at once, recorded in the training loop, never lost."""

import gc
import signal
import threading
import weakref

import pytest

from targetsft_jax.command import INTERRUPTED, STOPPED, run_command
from targetsft_jax.parallel import preemption
from targetsft_jax.parallel.preemption import Preempted, RaisedSignals, StopSignal


@pytest.fixture
def handler():
    """A handler of SIGTERM that counts, in place of the one that ends the process."""
    received = []
    previous = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
    yield received
    signal.signal(signal.SIGTERM, previous)


def test_the_first_signal_is_recorded_and_the_second_one_passes(handler):
    with StopSignal() as stop:
        assert not stop.requested and not preemption.requested()
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested and preemption.requested() and handler == []
        signal.raise_signal(signal.SIGTERM)
        assert handler == [1]
    assert not preemption.requested()


@pytest.mark.parametrize("context", [StopSignal, RaisedSignals])
def test_the_previous_handlers_return(handler, context):
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with context():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("context", [StopSignal, RaisedSignals])
def test_other_threads_leave_the_handlers_alone(handler, context):
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def work():
        with context():
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before]


@pytest.mark.parametrize(
    "number, code, text",
    [
        (signal.SIGTERM, STOPPED, "stopped by SIGTERM"),
        (signal.SIGINT, INTERRUPTED, "stopped by Ctrl-C"),
    ],
)
def test_a_signal_unwinds_the_run_past_handlers_of_errors(capsys, number, code, text):
    def action(_: list[str]) -> None:
        with RaisedSignals():
            try:
                signal.raise_signal(number)
            except Exception:  # noqa: BLE001
                # Such as the reader of checkpoints, for which all errors are damage.
                raise AssertionError from None

    assert run_command(action, []) == code
    assert capsys.readouterr().err == f"{text}\n"


def test_a_signal_that_a_callback_swallows_is_raised_again(capsys):
    """Exceptions of weakref callbacks are printed and dropped by the interpreter."""

    class Thing:
        pass

    with RaisedSignals():
        preemption.check()
        thing = Thing()
        reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGINT))
        del thing
        gc.collect()
        assert reference() is None
        with pytest.raises(Preempted, match="Ctrl-C"):
            preemption.check()
    # A later run begins without it.
    preemption.check()
    assert "Traceback" not in capsys.readouterr().err


def test_a_preemption_has_its_step_and_details(capsys):
    def action(_: list[str]) -> None:
        raise Preempted(step=7).with_details("the newest checkpoint is 7")

    assert run_command(action, []) == STOPPED
    printed = capsys.readouterr().err
    assert printed == "stopped by SIGTERM after step 7; the newest checkpoint is 7\n"
    assert Preempted(step=7).step == 7 and Preempted().step is None
