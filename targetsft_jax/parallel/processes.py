"""The processes of a run: how they find each other, and what they agree on.

Every process runs the same program on its own devices. What only one may do, printing
and writing, the first one does.
"""

import os
import socket
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

COORDINATOR, PROCESSES, PROCESS = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
"""Environment variables that stand in for arguments of `join` that are None."""

AUTO = "auto"
_TEXT_BYTES = 512


def initialize(
    coordinator: str | None,
    processes: int | None = None,
    process: int | None = None,
    *,
    timeout: int = 300,
    heartbeat: int = 10,
) -> bool:
    """Make this process one of several, before any device of jax is touched.

    Args:
        coordinator: HOST:PORT of the first process, or "auto": TPU pods, SLURM and MPI
            tell jax themselves. None, here and in the environment: it is alone.
        processes: how many there are.
        process: this one's number, from 0.
        timeout: seconds to wait for the others.
        heartbeat: seconds without a sign of life after which a process counts as dead
            and all others end.

    Returns:
        Whether it is one of several now.

    Raises:
        ValueError: a number is missing or wrong.
        ConnectionError: the others are not there in time.
    """
    coordinator = coordinator or os.environ.get(COORDINATOR)
    if coordinator is None:
        if (processes or 1) > 1 or process:
            raise ValueError(
                f"mesh.processes is {processes} and mesh.process is {process}, and no "
                "coordinator is known; expected HOST:PORT of process 0 in "
                f"mesh.coordinator or {COORDINATOR}"
            )
        return False
    # Its signal handler would take SIGTERM from ours, which a second one must kill.
    jax.config.update("jax_enable_preemption_service", False)
    limits = {
        "initialization_timeout": timeout,
        "heartbeat_timeout_seconds": heartbeat,
        "shutdown_timeout_seconds": 60,
    }
    if coordinator == AUTO:
        try:
            jax.distributed.initialize(**limits)
        except (ValueError, RuntimeError) as error:
            raise ConnectionError(
                f"mesh.coordinator is auto, and jax could not join a job by itself "
                f"({_first_line(error)}); expected a TPU pod, SLURM or MPI. Else give "
                "mesh.coordinator as HOST:PORT, mesh.processes and mesh.process"
            ) from None
        return jax.process_count() > 1
    processes = _number("mesh.processes", processes, PROCESSES)
    process = _number("mesh.process", process, PROCESS)
    if not 0 <= process < processes:
        raise ValueError(
            f"mesh.process is {process} of mesh.processes = {processes}; expected a "
            f"number from 0 to {processes - 1}"
        )
    began = time.monotonic()
    if process:
        _reach(coordinator, timeout)
    left = max(1, round(timeout - (time.monotonic() - began)))
    lonely = (
        f"process {process} of {processes} waited {timeout} s at {coordinator} for the "
        "others and gave up. Look whether each of them was started, with its own "
        "mesh.process, the same mesh.processes and the same mesh.coordinator; "
        "mesh.join_seconds is the limit"
    )
    # Jax's own limit ends the process with a stack trace of C++.
    watch = threading.Timer(left, _give_up, [lonely])
    watch.daemon = True
    watch.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method="deactivate",
            **limits | {"initialization_timeout": left + 30},
        )
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"process {process} of {processes} could not join at {coordinator} "
            f"({_first_line(error)}). Look whether the port is free on the first "
            "process's host"
        ) from None
    finally:
        watch.cancel()
    return processes > 1


def is_multiprocess() -> bool:
    """Whether the run has more than one process."""
    return jax.process_count() > 1


def is_primary() -> bool:
    """Whether this process is the one that prints and writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait for all processes; `name` is in the error of one that waits in vain."""
    if is_multiprocess():
        multihost_utils.sync_global_devices(name)


def gather_text(text: str) -> list[str]:
    """A short text of every process, by its number. All must call it.

    Longer ones are cut to 512 bytes.
    """
    if not is_multiprocess():
        return [text]
    mine = np.zeros(_TEXT_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:_TEXT_BYTES], np.uint8)
    mine[: len(encoded)] = encoded
    # [processes, bytes]
    found = multihost_utils.process_allgather(mine)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in found]


def to_host(tree: Any) -> Any:
    """Copy a tree of arrays to numpy, in full in every process.

    Arrays whose shards lie on devices of several processes are gathered, so all
    processes must call it with the same tree.
    """

    def copy(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(copy, tree)


def _reach(coordinator: str, timeout: int) -> None:
    """Wait until the first process listens: jax's own client would end this process
    without a word that helps."""
    host, _, port = coordinator.rpartition(":")
    until = time.monotonic() + timeout
    while True:
        left = until - time.monotonic()
        try:
            socket.create_connection(
                (host.strip("[]"), int(port)), max(1, left)
            ).close()
            return
        except OSError as error:
            if time.monotonic() + 0.5 >= until:
                raise ConnectionError(
                    f"no coordinator at host {host}, port {port}: waited {timeout} s "
                    f"({error}). Look whether process 0 runs, whether mesh.coordinator "
                    "is its address as seen from here, and whether a firewall lets the "
                    "port through; mesh.join_seconds is the limit"
                ) from None
            time.sleep(0.5)


def _give_up(why: str) -> None:
    sys.stderr.write(f"error: {why}\n")
    sys.stderr.flush()
    os._exit(1)


def _number(key: str, given: int | None, variable: str) -> int:
    if given is not None:
        return given
    found = os.environ.get(variable, "")
    if not found.isdecimal():
        raise ValueError(
            f"{key} is null and {variable} is {found!r}; expected a number in one of "
            "them, since mesh.coordinator is given"
        )
    return int(found)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
