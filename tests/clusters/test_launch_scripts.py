"""Scripts of `launch/` with programs of the cloud that record their arguments."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TRAINING = ["--config", "quickstart", "--run_dir", "/runs/a b"]


def _run(script, *arguments, folder, programs=(), **environment):
    """Standard output of a script; PROGRAM's arguments are lines of FOLDER/PROGRAM."""
    for name in programs:
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder}/{name}\n')
        program.chmod(0o755)
    variables = os.environ | {
        "PATH": f"{folder}/bin:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    result = subprocess.run(
        [ROOT / "launch" / script, *arguments],
        env=variables,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def _container(manifest):
    (job,) = manifest["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize(
    "script, size",
    [
        ("gke_tpu.sh", {"TOPOLOGY": "v6e:4x4", "SLICES": "2"}),
        ("gke_gpu.sh", {"NODES": "2", "GPUS": "8"}),
    ],
)
def test_jobsets_are_applied_with_the_training_as_it_was_typed(script, size, tmp_path):
    printed = _run(
        script, *TRAINING, folder=tmp_path, APPLY="cat", IMAGE="image:1", **size
    )
    container = _container(yaml.safe_load(printed))
    assert container["command"][-4:] == TRAINING
    assert container["command"][:3] == ["python", "-m", "targetsft_jax.train"]
    assert container["image"] == "image:1"
    assert container["volumeMounts"][-1]["mountPath"] == "/runs"
    at_store = [*TRAINING, "--run_dir", "gs://bucket/run"]
    size |= {"APPLY": "cat", "IMAGE": "i", "VOLUME": ""}
    printed = _run(script, *at_store, folder=tmp_path, **size)
    assert "mountPath: /runs" not in printed and "gs://bucket/run" in printed


def test_a_refused_training_is_not_applied(tmp_path):
    with pytest.raises(AssertionError, match="stepz"):
        _run("gke_tpu.sh", "--train.stepz", "3", folder=tmp_path, IMAGE="i", APPLY=":")


def test_tpu_hosts_start_detached_at_a_port_that_the_firewall_opens(tmp_path):
    _run("tpu_pod.sh", "pod", "zone", *TRAINING, folder=tmp_path, programs=["gcloud"])
    lines = (tmp_path / "gcloud").read_text().splitlines()
    assert "--worker=all" in lines
    command = lines[lines.index("--command") + 1]
    assert "JAX_COORDINATOR_PORT=8476 setsid nohup" in command
    assert command.endswith("< /dev/null &")
    words = shlex.split(command.partition(">")[0])
    assert words[-4:] == TRAINING


@pytest.mark.parametrize("verb, host", [("log", "0"), ("stop", "all")])
def test_a_detached_training_can_be_followed_and_stopped(verb, host, tmp_path):
    _run("tpu_pod.sh", "pod", "zone", verb, folder=tmp_path, programs=["gcloud"])
    assert f"--worker={host}" in (tmp_path / "gcloud").read_text().splitlines()


def test_xpk_runs_the_training_without_a_shell_in_between(tmp_path):
    environment = {"CLUSTER": "c", "IMAGE": "image:1"}
    _run("xpk.sh", *TRAINING, folder=tmp_path, programs=["xpk"], **environment)
    lines = (tmp_path / "xpk").read_text().splitlines()
    command = shlex.split(lines[lines.index("--command") + 1])
    assert command[:4] == ["exec", "python", "-m", "targetsft_jax.train"]
    assert command[-4:] == TRAINING
