"""A process killed without warning, and the same command given again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rig

from targetsft_jax.train import main
from targetsft_jax.training import fit as fit_module

STEPS, SAVED = 24, 4


@pytest.mark.slow
def test_sigkill_after_a_checkpoint_costs_nothing(
    folders, tmp_path, monkeypatch, plain_make_train_step
):
    """The losses and the weights are those of a run that nobody killed."""
    # The killed process compiles as every user's does; so must the one that goes on.
    monkeypatch.setattr(fit_module, "make_train_step", plain_make_train_step)

    def arguments(name: str) -> list[str]:
        small = {"train__steps": STEPS, "train__save_every": SAVED}
        return rig.small_run(folders, tmp_path / name, **small)

    process = subprocess.Popen(
        [sys.executable, "-m", "targetsft_jax.train", *arguments("killed")],
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
    )
    first = tmp_path / "killed/checkpoints" / str(SAVED)
    try:
        until = time.monotonic() + 300
        while not first.exists() and process.poll() is None:
            assert time.monotonic() < until, "no checkpoint was written"
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    # Killed at work, not at the end.
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/hf").exists()
    assert main(arguments("killed")) == 0
    assert main(arguments("whole")) == 0
    rows = rig.metrics_of(tmp_path / "killed")
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert rig.untimed(rows) == rig.untimed(rig.metrics_of(tmp_path / "whole"))
    one, other = (
        (tmp_path / name / "hf/model.safetensors").read_bytes()
        for name in ("killed", "whole")
    )
    assert one == other
