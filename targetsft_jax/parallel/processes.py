"""Multi-process runs: start-up, barriers, and exchange of small values.

Every process runs the same program on its own devices. The primary process, number 0,
is the one that prints and writes.
"""

import errno
import os
import socket
import sys
import threading
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from targetsft_jax.parallel.slurm import slurm_task

COORDINATOR, PROCESSES, PROCESS = (
    "JAX_COORDINATOR_ADDRESS",
    "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID",
)
"""Environment variables, read where arguments of `initialize` are None."""

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
    """Join a multi-process job, before any device of jax is touched.

    Args:
        coordinator: HOST:PORT of process 0, or "auto": the tasks of a Slurm job step,
            or what jax detects, a TPU pod or MPI. None, here and in the environment,
            for a single process.
        processes: number of processes.
        process: number of this process, from 0.
        timeout: seconds to wait for the other processes.
        heartbeat: seconds without a heartbeat after which a process counts as dead and
            all others terminate.

    Returns:
        True if the job has several processes.

    Raises:
        ValueError: a number is missing or out of range.
        ConnectionError: the other processes did not join in time.
    """
    coordinator = coordinator or os.environ.get(COORDINATOR)
    if coordinator is None:
        if (processes or 1) > 1 or process:
            raise ValueError(
                f"mesh.processes is {processes} and mesh.process is {process}, but no "
                "coordinator is known; expected HOST:PORT of process 0 in "
                f"mesh.coordinator or {COORDINATOR}"
            )
        return False
    # jax's handler would replace `StopSignal`, and a second SIGTERM would not kill.
    jax.config.update("jax_enable_preemption_service", False)
    limits: dict[str, Any] = {
        "initialization_timeout": timeout,
        "heartbeat_timeout_seconds": heartbeat,
        "shutdown_timeout_seconds": 60,
    }
    if coordinator == AUTO:
        task = slurm_task(os.environ)
        if task is None:
            _initialize_detected(limits)
            return jax.process_count() > 1
        if task.processes == 1:
            return False
        coordinator, processes, process = task.coordinator, task.processes, task.process
        limits["local_device_ids"] = task.local_devices
    processes = _number("mesh.processes", processes, PROCESSES)
    process = _number("mesh.process", process, PROCESS)
    if not 0 <= process < processes:
        raise ValueError(
            f"mesh.process is {process} and mesh.processes is {processes}; expected a "
            f"process number from 0 to {processes - 1}"
        )
    _initialize_at(coordinator, processes, process, timeout, limits)
    return processes > 1


def _initialize_detected(limits: dict[str, Any]) -> None:
    """Join the job that jax detects."""
    try:
        jax.distributed.initialize(**limits)
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"mesh.coordinator is auto and jax detected no job ({_first_line(error)}); "
            "expected a TPU pod, SLURM or MPI. Elsewhere, set mesh.coordinator to "
            "HOST:PORT, mesh.processes and mesh.process"
        ) from None


def _initialize_at(
    coordinator: str,
    processes: int,
    process: int,
    timeout: int,
    limits: dict[str, Any],
) -> None:
    """Join the job of a coordinator within `timeout` seconds."""
    start = time.monotonic()
    port = coordinator.rpartition(":")[2]
    if not (port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"mesh.coordinator is {coordinator!r}; expected HOST:PORT with a port from "
            "1 to 65535"
        )
    if process:
        _wait_for_listener(coordinator, timeout)
    else:
        _check_free(coordinator)
    remaining = max(1, round(timeout - (time.monotonic() - start)))
    timeout_error = (
        f"process {process} of {processes} waited {timeout} s at {coordinator} for the "
        "other processes. Check that each of them was started, with a different "
        "mesh.process, the same mesh.processes and the same mesh.coordinator; "
        "mesh.join_seconds sets the limit"
    )
    # On its own timeout jax ends the process with a C++ stack trace.
    timer = threading.Timer(remaining, _exit, [timeout_error])
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            cluster_detection_method="deactivate",
            **limits | {"initialization_timeout": remaining + 30},
        )
    except (RuntimeError, ValueError) as error:
        raise ConnectionError(
            f"process {process} of {processes} could not join at {coordinator} "
            f"({_first_line(error)}). Check that the port is free on the host of "
            "process 0"
        ) from None
    finally:
        timer.cancel()


def is_multiprocess() -> bool:
    """True if the run has more than one process."""
    return jax.process_count() > 1


def is_primary() -> bool:
    """True if this process is the one that prints and writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait for all processes; errors of a barrier that times out contain `name`."""
    if is_multiprocess():
        multihost_utils.sync_global_devices(name)


def gather_text(text: str) -> list[str]:
    """Texts of all processes, by process number; all processes must call it.

    With several processes, texts are truncated to 512 bytes.
    """
    if not is_multiprocess():
        return [text]
    padded = np.zeros(_TEXT_BYTES, np.uint8)
    encoded = np.frombuffer(text.encode()[:_TEXT_BYTES], np.uint8)
    padded[: len(encoded)] = encoded
    # [processes, bytes]
    gathered = multihost_utils.process_allgather(padded)
    return [bytes(row).rstrip(b"\0").decode(errors="ignore") for row in gathered]


def gather_bytes(data: bytes) -> list[bytes]:
    """Data of all processes, by process number; all processes must call it."""
    if not is_multiprocess():
        return [data]
    sizes = multihost_utils.process_allgather(np.asarray(len(data), np.int32))
    padded = np.zeros(max(sizes), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    gathered = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(gathered, sizes)]


def gather_flags(flag: bool) -> list[bool]:
    """Flags of all processes, by process number; all processes must call it."""
    return [text == str(True) for text in gather_text(str(flag))]


def from_primary(text: str) -> str:
    """Text of the primary process, of any length; all processes must call it."""
    if not is_multiprocess():
        return text
    encoded = np.frombuffer(text.encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(len(encoded)))
    padded = np.zeros(int(size), np.uint8)
    if is_primary():
        padded[:] = encoded
    return bytes(np.asarray(multihost_utils.broadcast_one_to_all(padded))).decode()


def to_host(tree: Any) -> Any:
    """Copy a tree of arrays to numpy, complete in every process.

    Arrays that are sharded over devices of several processes are gathered, so all
    processes must call it with the same tree.
    """

    def copy(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(copy, tree)


def _wait_for_listener(coordinator: str, timeout: int) -> None:
    """Wait until process 0 listens.

    Otherwise the client of jax terminates this process without a helpful message.

    Raises:
        ConnectionError: it does not listen within `timeout` seconds.
    """
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        remaining = deadline - time.monotonic()
        try:
            socket.create_connection(
                (host.strip("[]"), int(port)), max(1, remaining)
            ).close()
            return
        except OSError as error:
            if time.monotonic() + 0.5 >= deadline:
                raise ConnectionError(
                    f"no coordinator at host {host}, port {port}: waited {timeout} s "
                    f"({error}). Check that process 0 runs, that mesh.coordinator is "
                    "its address as seen from this host, and that no firewall blocks "
                    "the port; mesh.join_seconds sets the limit"
                ) from None
            time.sleep(0.5)


def _check_free(coordinator: str) -> None:
    """Check that process 0 can listen at the port; jax would end with a crash.

    Raises:
        ConnectionError: another program listens there.
    """
    port = int(coordinator.rpartition(":")[2])
    families = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")]
    for family, address in families:
        try:
            with socket.socket(family, socket.SOCK_STREAM) as listener:
                # Connections of an earlier run may linger.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                listener.bind((address, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise ConnectionError(
                    f"process 0 cannot listen at port {port} of mesh.coordinator "
                    f"({error.strerror}); choose another port, the same for all "
                    "processes"
                ) from None


def _exit(error: str) -> None:
    sys.stderr.write(f"error: {error}\n")
    sys.stderr.flush()
    os._exit(1)


def _number(key: str, value: int | None, variable: str) -> int:
    if value is not None:
        return value
    text = os.environ.get(variable, "")
    if not text.isdecimal():
        raise ValueError(
            f"{key} is null and {variable} is {text!r}; expected a number in one of "
            "them, since mesh.coordinator is set"
        )
    return int(text)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]
