"""Training commands in processes of their own, one or several to a run."""

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
    """Processes of one run, with files of what each printed."""

    processes: list[subprocess.Popen]
    printed: list[Path]
    errors: list[Path]

    def wait(self, seconds: float) -> list[int]:
        """Their exit statuses; all of them are killed where one takes longer."""
        until = time.monotonic() + seconds
        try:
            return [p.wait(max(0.1, until - time.monotonic())) for p in self.processes]
        finally:
            self.kill()

    def kill(self) -> None:
        """Without warning."""
        for process in self.processes:
            process.kill()
            process.wait()

    def until(self, path: Path, seconds: float = 120) -> None:
        """Wait for a file or folder that they make."""
        limit = time.monotonic() + seconds
        while not path.exists():
            ended = [p.poll() for p in self.processes if p.poll() is not None]
            assert not ended, f"ended with {ended}: {self.said()}"
            assert time.monotonic() < limit, f"{path} was not made: {self.said()}"
            time.sleep(0.005)

    def said(self) -> str:
        """What all of them printed."""
        return "\n".join(path.read_text() for path in (*self.printed, *self.errors))


def environment(cache: Path) -> dict[str, str]:
    """That of the tests without their eight devices, and compiling only once."""
    kept = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return kept | {
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
    """Begin the command in so many processes of so many devices each.

    Args:
        arguments: of the training command.
        folder: gets files of what they print, and the cache of compilations.
        processes, devices: `devices` of each.
        last: more arguments, of the last process alone.
    """
    address = f"127.0.0.1:{free_port()}"
    commands = []
    for number in range(processes):
        own = ["--mesh.cpu_devices", str(devices)]
        if processes > 1:
            own += ["--mesh.coordinator", address, "--mesh.process", str(number)]
            own += ["--mesh.processes", str(processes), "--mesh.join_seconds", "60"]
        if number == processes - 1:
            own += last
        commands.append([sys.executable, "-m", "targetsft_jax.train", *arguments, *own])
    return run_all(commands, folder)


def run_all(commands: list[list[str]], folder: Path) -> Job:
    """Begin commands side by side."""
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
