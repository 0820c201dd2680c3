"""Processes of a Slurm job step, read from the environment that `srun` sets.

jax detects Slurm as well, but gives every process the one GPU of its number on the
node, also where a node has one process for all of its GPUs.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PORTS = 4096
_FIRST_PORT = 2**16 - _PORTS

_NEEDED = (
    "SLURM_JOB_ID",
    "SLURM_STEP_NODELIST",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_STEP_NUM_NODES",
    "SLURM_PROCID",
    "SLURM_LOCALID",
)


@dataclass(frozen=True)
class SlurmTask:
    """One process of a job step.

    Attributes:
        coordinator: HOST:PORT of process 0.
        processes: number of processes.
        process: number of this process.
        local_devices: numbers of the GPUs of this process among those that it sees;
            None for all of them.
    """

    coordinator: str
    processes: int
    process: int
    local_devices: list[int] | None


def slurm_task(environment: Mapping[str, str]) -> SlurmTask | None:
    """Return the task of this process; None outside a job step.

    The GPUs of a node are divided among its tasks, unless Slurm has bound them
    (`--gpus-per-task`, `--gpu-bind`): then a task sees no others.

    Args:
        environment: environment variables.

    Raises:
        ValueError: the tasks of a node cannot share its GPUs evenly.
    """
    if any(name not in environment for name in _NEEDED):
        return None
    job, nodes, processes, node_count, process, number = (
        environment[name] for name in _NEEDED
    )
    port = environment.get("JAX_COORDINATOR_PORT")
    # Different for the jobs of a node, equal in all tasks of a job.
    port = port or str(_FIRST_PORT + int(job.partition("_")[0]) % _PORTS)
    return SlurmTask(
        coordinator=f"{first_host(nodes)}:{port}",
        processes=int(processes),
        process=int(process),
        local_devices=_local_devices(
            environment, -(-int(processes) // int(node_count)), int(number)
        ),
    )


def first_host(nodes: str) -> str:
    """First host of a Slurm node list, such as "gpu[003-005,9],login"."""
    first = re.split(r",(?![^\[]*\])", nodes, maxsplit=1)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _local_devices(
    environment: Mapping[str, str], tasks: int, number: int
) -> list[int] | None:
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    on_node = environment.get("SLURM_GPUS_ON_NODE", "")
    if tasks == 1 or not visible or not on_node.isdecimal():
        return None
    gpus = len(visible.split(","))
    if gpus < int(on_node):
        return None  # bound to this task
    if gpus % tasks:
        raise ValueError(
            f"{tasks} tasks share the {gpus} GPUs of a node; expected a number of "
            "tasks per node that divides them, or one (--ntasks-per-node=1)"
        )
    share = gpus // tasks
    return list(range(number * share, (number + 1) * share))
