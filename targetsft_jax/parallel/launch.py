"""Launch of a command on its devices, in one process or as one of several."""

import os
import sys
import traceback
from collections.abc import Callable

from targetsft_jax.command import FAILED, LOST, run_command

_OWN_FAULTS = ("RESOURCE_EXHAUSTED", "INVALID_ARGUMENT", "UNIMPLEMENTED")
"""Status codes of jax that another process cannot cause."""


def launch(
    action: Callable[[], int | None],
    *,
    cpu_devices: int | None = None,
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    join_seconds: int = 300,
    heartbeat_seconds: int = 10,
) -> int:
    """Run an action on the devices and processes of a `mesh` section.

    With several processes only the primary one prints, and a process that fails or
    stops alone exits immediately: an orderly shutdown would wait for the others, which
    wait for it.

    Args:
        action: returns an exit code, None for success.
        cpu_devices: virtual CPU devices of this process; None: the real devices.
        coordinator, processes, process, join_seconds, heartbeat_seconds: as in
            `processes.initialize`.

    Returns:
        The exit code.

    Raises:
        ValueError, OSError: the processes cannot connect.
    """
    import jax

    from targetsft_jax.parallel.preemption import Preempted
    from targetsft_jax.parallel.processes import initialize, is_primary

    if cpu_devices is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", cpu_devices)
    multiprocess = initialize(
        coordinator,
        processes,
        process,
        timeout=join_seconds,
        heartbeat=heartbeat_seconds,
    )
    if not multiprocess:
        return action() or 0
    if not is_primary():
        # The file descriptor, not sys.stdout: compiled libraries print as well.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    together = False

    def stoppable(_: list[str]) -> int | None:
        nonlocal together
        try:
            return action()
        except Preempted as stop:
            together = stop.step is not None
            raise

    try:
        status = run_command(stoppable, [])
    except jax.errors.JaxRuntimeError as error:
        # Most often a collective that failed because another process ended.
        message = str(error).splitlines()[0][:300]
        sys.stderr.write(
            f"error: {message}; if another process has ended, its error is the cause\n"
        )
        status = FAILED if message.startswith(_OWN_FAULTS) else LOST
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        status = FAILED
    if status and not together:
        index = jax.process_index()
        sys.stderr.write(f"process {index} failed; terminating all processes\n")
        sys.stderr.flush()
        os._exit(status)
    return status
