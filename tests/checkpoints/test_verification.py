"""Reading and verifying a state: changed arrays, missing fields, other processes."""

import jax.numpy as jnp
import pytest

from targetsft_jax.checkpoints import verification
from targetsft_jax.checkpoints.checksums import array_checksums
from targetsft_jax.checkpoints.verification import StateReader, attempt, verify

ARRAYS = {name: jnp.arange(3.0) + number for number, name in enumerate("abcde")}


def test_intact_arrays_pass():
    verify(ARRAYS, array_checksums(ARRAYS))


@pytest.mark.parametrize("count, text", [(1, "a differ"), (3, "a, b, c differ")])
def test_changed_arrays_are_named(count, text):
    names = list(ARRAYS)[:count]
    changed = ARRAYS | {name: ARRAYS[name].at[1].add(1) for name in names}
    with pytest.raises(ValueError, match=text):
        verify(changed, array_checksums(ARRAYS))


def test_many_changed_arrays_and_missing_checksums():
    with pytest.raises(ValueError, match="a, b, c and more differ"):
        verify(ARRAYS, {})


def test_a_failure_in_any_process_is_one_of_all(monkeypatch):
    assert attempt(lambda: 3) == (3, "")
    _, reason = attempt(lambda: 1 / 0)
    assert reason == "ZeroDivisionError: division by zero"
    _, reason = attempt(lambda: (_ for _ in ()).throw(OSError("one\ntwo")))
    assert reason == "OSError: one"
    monkeypatch.setattr(
        verification.processes, "gather_text", lambda text: [text, "OSError: theirs"]
    )
    assert attempt(lambda: 3)[1] == "OSError: theirs"


def test_a_folder_without_the_checkpoint(tmp_path):
    _, reason = attempt(lambda: StateReader(tmp_path).metadata(3))
    assert reason
