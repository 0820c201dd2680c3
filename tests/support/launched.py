"""Training commands in separate processes, one or several per run."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Job:
    """Processes of one run, and the files of their standard output and error."""

    processes: list[subprocess.Popen]
    printed: list[Path]
    errors: list[Path]

    def wait(self, seconds: float) -> list[int]:
        """Exit statuses; all processes are killed if one takes longer."""
        deadline = time.monotonic() + seconds
        try:
            return [
                p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes
            ]
        finally:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL to all processes."""
        for process in self.processes:
            process.kill()
            process.wait()

    def until(self, path: Path, seconds: float = 120) -> None:
        """Wait until a file or folder exists."""
        deadline = time.monotonic() + seconds
        while not path.exists():
            statuses = [p.poll() for p in self.processes if p.poll() is not None]
            assert not statuses, f"exited with {statuses}: {self.said()}"
            assert time.monotonic() < deadline, f"{path} does not exist: {self.said()}"
            time.sleep(0.005)

    def said(self) -> str:
        """Standard output and error of all processes."""
        return "\n".join(path.read_text() for path in (*self.printed, *self.errors))


def environment(cache: Path) -> dict[str, str]:
    """Environment of the tests with one device and a compilation cache."""
    variables = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return variables | {
        "PYTHONPATH": str(ROOT),
        "PYTHON": sys.executable,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(
    arguments: list[str],
    folder: Path,
    *,
    processes: int = 1,
    devices: int = 4,
    last: Sequence[str] = (),
) -> Job:
    """Start the training command in `processes` processes.

    Args:
        arguments: arguments of the training command.
        folder: folder of the output files; the compilation cache is next to it.
        processes: number of processes.
        devices: virtual devices per process.
        last: further arguments of the last process only.
    """
    address = f"127.0.0.1:{free_port()}"
    commands = []
    for number in range(processes):
        options = ["--mesh.cpu_devices", str(devices)]
        if processes > 1:
            options += ["--mesh.coordinator", address, "--mesh.process", str(number)]
            options += ["--mesh.processes", str(processes), "--mesh.join_seconds", "60"]
        if number == processes - 1:
            options += last
        commands.append(
            [sys.executable, "-m", "targetsft_jax.train", *arguments, *options]
        )
    return run_all(commands, folder)


def run_all(commands: list[list[str]], folder: Path) -> Job:
    """Start commands in parallel."""
    folder.mkdir(parents=True, exist_ok=True)
    job = Job([], [], [])
    for number, command in enumerate(commands):
        out, err = folder / f"{number}.out", folder / f"{number}.err"
        with out.open("w") as printed, err.open("w") as errors:
            job.processes.append(
                subprocess.Popen(
                    command,
                    stdout=printed,
                    stderr=errors,
                    cwd=ROOT,
                    env=environment(folder.parent / "compiled"),
                )
            )
        job.printed.append(out)
        job.errors.append(err)
    return job
