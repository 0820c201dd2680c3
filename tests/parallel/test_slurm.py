"""Tasks of Slurm job steps, from the variables that `srun` sets."""

import jax
import pytest

from targetsft_jax.parallel.processes import initialize
from targetsft_jax.parallel.slurm import SlurmTask, first_host, slurm_task


def _environment(**more):
    return {
        "SLURM_JOB_ID": "4100",
        "SLURM_STEP_NODELIST": "gpu[07-09]",
        "SLURM_STEP_NUM_TASKS": "3",
        "SLURM_STEP_NUM_NODES": "3",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "0",
    } | more


@pytest.mark.parametrize(
    "nodes, host",
    [
        ("login", "login"),
        ("login,gpu1", "login"),
        ("gpu[003-005,9],login", "gpu003"),
        ("gpu[7,9-12]", "gpu7"),
        ("rack[1-2]node[05-06]-ib", "rack1node05-ib"),
    ],
)
def test_the_coordinator_runs_on_the_first_host(nodes, host):
    assert first_host(nodes) == host


def test_the_only_task_of_a_node_has_all_of_its_gpus():
    gpus = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}
    assert slurm_task(_environment(**gpus)) == SlurmTask("gpu07:61444", 3, 1, None)


@pytest.mark.parametrize("number, devices", [(0, [0, 1]), (1, [2, 3])])
def test_tasks_of_a_node_divide_its_gpus(number, devices):
    task = slurm_task(
        _environment(
            SLURM_STEP_NUM_TASKS="6",
            SLURM_LOCALID=str(number),
            CUDA_VISIBLE_DEVICES="0,1,2,3",
            SLURM_GPUS_ON_NODE="4",
        )
    )
    assert task.local_devices == devices


def test_gpus_that_slurm_has_bound_to_a_task_are_not_divided_again():
    bound = {"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_ON_NODE": "4"}
    task = slurm_task(
        _environment(SLURM_STEP_NUM_TASKS="12", SLURM_LOCALID="3", **bound)
    )
    assert task.local_devices is None


def test_gpus_that_tasks_cannot_share_evenly_are_refused():
    uneven = {"CUDA_VISIBLE_DEVICES": "0,1,2,3", "SLURM_GPUS_ON_NODE": "4"}
    with pytest.raises(ValueError, match="3 tasks share the 4 GPUs of a node"):
        slurm_task(_environment(SLURM_STEP_NUM_TASKS="9", **uneven))


def test_a_port_can_be_set_and_differs_between_jobs():
    chosen = slurm_task(_environment(JAX_COORDINATOR_PORT="8476"))
    assert chosen.coordinator == "gpu07:8476"
    other = slurm_task(_environment(SLURM_JOB_ID="4101_7"))
    assert other.coordinator == "gpu07:61445"


def test_a_batch_script_is_no_job_step():
    script = _environment()
    del script["SLURM_STEP_NODELIST"]
    assert slurm_task(script) is None


def test_a_single_task_joins_nobody_and_keeps_all_gpus(monkeypatch):
    # jax would join by itself, with the first GPU only.
    single = _environment(SLURM_STEP_NUM_TASKS="1", SLURM_STEP_NUM_NODES="1")
    for name, value in (single | {"SLURM_PROCID": "0"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(jax.distributed, "initialize", _unexpected)
    assert not initialize("auto")


def _unexpected(*args, **more):
    raise AssertionError("a single process joined a job")
