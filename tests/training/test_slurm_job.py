"""Jobs of `launch/slurm.sh` on a real Slurm: time limit, requeueing, cancellation."""

import time

import pytest
from support import launched, rig, slurm

REASON = slurm.missing()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(REASON is not None, reason=str(REASON)),
]
SCRIPT = str(launched.ROOT / "launch/slurm.sh")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp("slurm") / "c") as running:
        yield running


def _submit(cluster, folders, run_dir, output, steps):
    arguments = rig.small_run(
        folders, run_dir, train__steps=steps, train__save_every=4, mesh__data=2
    )
    options = ["--parsable", "--ntasks-per-node=2", f"--output={output}"]
    arguments = [*arguments, "--mesh.cpu_devices", "1"]
    return cluster.run("sbatch", *options, SCRIPT, *arguments).strip()


def _wait_for(path, cluster, job, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, cluster.state(job)
        time.sleep(0.1)


def test_a_job_at_its_time_limit_saves_is_queued_again_and_resumes(
    cluster, folders, tmp_path
):
    run_dir, output = tmp_path / "run", tmp_path / "output"
    job = _submit(cluster, folders, run_dir, output, 10**6)
    _wait_for(run_dir / "checkpoints/4", cluster, job)
    # What Slurm sends three minutes before the limit.
    cluster.run("scancel", "--batch", "--signal=USR1", job)
    fields = cluster.until(job, "PENDING")
    assert fields["Restarts"] == "1"
    assert "stopped by SIGTERM after step" in output.read_text()
    # Not after the two minutes that Slurm waits; at once, the node would refuse it.
    cluster.run("scontrol", "update", f"JobId={job}", "StartTime=now+10")
    cluster.until(job, "RUNNING")
    deadline = time.monotonic() + 120
    while "resumed from the checkpoint of step" not in output.read_text():
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
    cluster.run("scancel", job)
    cluster.until(job, "CANCELLED")


def test_a_finished_job_is_completed_with_one_output(cluster, folders, tmp_path):
    run_dir, output = tmp_path / "run", tmp_path / "output"
    job = _submit(cluster, folders, run_dir, output, 3)
    fields = cluster.until(job, "COMPLETED", "FAILED")
    assert (fields["JobState"], fields["ExitCode"]) == ("COMPLETED", "0:0")
    lines = output.read_text().splitlines()
    # Two processes, of which one prints.
    assert sum(line.startswith("step 3/3") for line in lines) == 1
    assert (run_dir / "hf/model.safetensors").is_file()


def test_a_wrong_configuration_fails_and_is_not_queued_again(
    cluster, folders, tmp_path
):
    output = tmp_path / "output"
    job = _submit(cluster, folders, tmp_path / "run", output, "many")
    fields = cluster.until(job, "COMPLETED", "FAILED")
    # The exit code is the largest of the tasks': 2, or 143 of one that srun stopped.
    assert (fields["JobState"], fields["Restarts"]) == ("FAILED", "0")
    assert "train.steps is 'many'" in output.read_text()
