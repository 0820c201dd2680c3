"""Runs of several processes against one process with as many devices."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import launched, rig

from targetsft_jax.parallel import processes
from targetsft_jax.train import main

STEPS = 24
MESH = {"mesh__data": 2, "mesh__fsdp": 2}


def _arguments(folders, run_dir, **more):
    # One kernel: that of whole rows on a CPU rounds unlike that of shared ones.
    same = {"train__attention": "xla", "train__remat": "none"}
    settings = {"train__steps": STEPS, "train__save_every": 3, **same, **MESH}
    return rig.small_run(folders, run_dir, **settings | more)


@pytest.fixture(scope="module")
def area(tmp_path_factory):
    """Parent folder of the runs, which share a compilation cache."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folders, area):
    """Run directory of a single process with four devices."""
    measured = {"evaluation__problems": 3, "evaluation__samples": 2}
    arguments = _arguments(folders, area / "alone", **measured)
    job = launched.start([*arguments, *_SHORT], area / "alone_output")
    assert job.wait(120) == [0], job.said()
    return area / "alone"


_SHORT = ["--evaluation.max_new_tokens", "12"]


def _assert_same_losses(run_dir, other):
    rows, others = rig.metrics_of(run_dir), rig.metrics_of(other)
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row, reference in zip(rows, others, strict=True):
        for key in ("loss", "nll", "strength", "entropy"):
            np.testing.assert_allclose(row[key], reference[key], rtol=1e-6)
        # The mean of token gradients that cancel: 0.003 to 0.05, with roundings of
        # up to 9e-9 in the order of the sum.
        grad_norm = reference["grad_norm"]
        np.testing.assert_allclose(row["grad_norm"], grad_norm, rtol=1e-6, atol=2e-8)


def _assert_same_export(run_dir, other):
    one, two = (load_file(x / "hf/model.safetensors") for x in (run_dir, other))
    assert one.keys() == two.keys()
    for key, array in one.items():
        # AdamW steps of 1e-2, which differ in the last bits.
        np.testing.assert_allclose(array, two[key], atol=2e-6, rtol=0)


@pytest.mark.slow
def test_two_processes_equal_one(folders, area, alone):
    """Started by `launch/local.sh`; only the primary process prints and writes.

    Here all devices of both processes share each row, there none do.
    """
    measured = {"evaluation__problems": 3, "evaluation__samples": 2}
    measured |= {"mesh__data": 1, "mesh__fsdp": 1, "mesh__context": 4}
    script = [str(launched.ROOT / "launch/local.sh"), "2"]
    arguments = _arguments(folders, area / "two", mesh__cpu_devices=2, **measured)
    job = launched.run_all([[*script, *arguments, *_SHORT]], area / "two_output")
    assert job.wait(120) == [0], job.said()
    _assert_same_losses(area / "two", alone)
    _assert_same_export(area / "two", alone)
    for name in ("completions_start.jsonl", "completions_target_sft.jsonl"):
        assert (area / "two" / name).read_text() == (alone / name).read_text()
    names = {path.name for path in alone.iterdir()}
    assert {path.name for path in (area / "two").iterdir()} == names
    # Of metrics, and of scores.
    assert len(list((area / "two/tensorboard").iterdir())) == 2
    lines = job.printed[0].read_text().splitlines()
    assert sum(line.startswith(f"step {STEPS}/") for line in lines) == 1


@pytest.mark.slow
def test_a_killed_process_ends_all_and_others_go_on(folders, area, alone):
    """Four processes, one killed and the files of one damaged; two processes resume."""
    run_dir = area / "killed"
    job = launched.start(
        _arguments(folders, run_dir), area / "killed_output", processes=4, devices=1
    )
    job.until(run_dir / "checkpoints/6")
    job.processes[2].send_signal(signal.SIGKILL)
    began = time.monotonic()
    statuses = job.wait(120)
    assert time.monotonic() - began < 60
    assert statuses[2] == -signal.SIGKILL
    assert all(statuses), "every process must end with an error"
    assert not (run_dir / "hf").exists()
    saved = sorted(
        int(path.name)
        for path in (run_dir / "checkpoints").iterdir()
        if path.name.isdecimal()
    )
    # Damage that only the last process can detect: its part of the newest checkpoint.
    part = run_dir / "checkpoints" / str(saved[-1]) / "optimizer/ocdbt.process_3/d"
    for path in part.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    job = launched.start(
        _arguments(folders, run_dir), area / "again_output", processes=2, devices=2
    )
    assert job.wait(120) == [0, 0], job.said()
    printed = job.printed[0].read_text()
    assert f"checkpoint {saved[-1]} cannot be restored" in printed
    assert f"resumed from the checkpoint of step {saved[-2]}" in printed
    assert job.printed[1].read_text() == ""
    _assert_same_losses(run_dir, alone)
    _assert_same_export(run_dir, alone)


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_after_the_same_step(folders, area):
    run_dir = area / "sigterm"
    arguments = _arguments(folders, run_dir, train__save_every=1000, train__steps=10**6)
    job = launched.start(arguments, area / "sigterm_output", processes=2, devices=2)
    job.until(run_dir / "metrics.jsonl")
    while not (run_dir / "metrics.jsonl").read_text():
        time.sleep(0.01)
    job.processes[1].send_signal(signal.SIGTERM)
    assert job.wait(30) == [143, 143], job.said()
    rows = rig.metrics_of(run_dir)
    (saved,) = (run_dir / "checkpoints").iterdir()
    assert int(saved.name) == len(rows) == rows[-1]["step"]
    assert f"stopped by SIGTERM after step {saved.name}; the newest" in job.said()


@pytest.mark.slow
def test_a_process_with_other_settings_is_refused(folders, area):
    """Nothing is written before the refusal."""
    job = launched.start(
        _arguments(folders, area / "unlike"),
        area / "unlike_output",
        processes=2,
        devices=2,
        last=["--train.learning_rate", "2e-2"],
    )
    assert all(job.wait(60))
    assert "process 1 of 2 has another configuration" in job.said()
    assert not (area / "unlike").exists()


def test_a_coordinator_that_is_not_there_is_named(capsys):
    port = launched.free_port()
    began = time.monotonic()
    with pytest.raises(ConnectionError, match=f"port {port}: waited 1 s") as refusal:
        processes.initialize(f"127.0.0.1:{port}", 2, 1, timeout=1)
    assert "process 0 runs" in str(refusal.value)
    assert time.monotonic() - began < 5


def test_a_primary_process_without_others_times_out_with_one_line():
    script = (
        "from targetsft_jax.parallel import processes as p;"
        f"p.initialize('127.0.0.1:{launched.free_port()}', 2, 0, timeout=2)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env=launched.environment(launched.ROOT),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert "process 0 of 2 waited 2 s at 127.0.0.1" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mesh.coordinator": "here"}, "expected HOST:PORT, auto or null"),
        ({"mesh.coordinator": "auto", "mesh.processes": 2}, "expected null for both"),
        ({"mesh.processes": 2}, "no coordinator is known"),
        ({"mesh.coordinator": "a:1"}, "mesh.processes is null and JAX_NUM_PROCESSES"),
        (
            {"mesh.coordinator": "a:1", "mesh.processes": 2, "mesh.process": 2},
            "expected a process number from 0 to 1",
        ),
    ],
)
def test_invalid_processes_are_refused(settings, message, folders, tmp_path, capsys):
    arguments = rig.small_run(folders, tmp_path) + rig.command(settings)
    assert main(arguments) in (1, 2)
    assert message in capsys.readouterr().err
