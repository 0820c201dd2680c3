"""A Slurm cluster of one node on this machine, with daemons of its own."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support import launched

_DAEMONS = ("munged", "slurmctld", "slurmd")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Reason for which no cluster can be started here; None if one can."""
    absent = [name for name in _DAEMONS if shutil.which(name, path=_PATH) is None]
    if absent:
        return f"{', '.join(absent)} not installed (Debian: slurm-wlm)"
    return None if os.geteuid() == 0 else "the daemons of Slurm need root"


class Cluster:
    """Commands of a running cluster."""

    def __init__(self, folder: Path) -> None:
        self.environment = launched.environment(folder / "compiled") | {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": _PATH,
        }

    def run(self, *command: str) -> str:
        """Standard output of a command."""
        result = subprocess.run(
            command,
            env=self.environment,
            cwd=launched.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout

    def state(self, job: str) -> dict[str, str]:
        """Fields of a job, such as JobState and Restarts."""
        words = self.run("scontrol", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def until(self, job: str, *states: str, seconds: float = 120) -> dict[str, str]:
        """Fields of a job as soon as it is in one of the states."""
        deadline = time.monotonic() + seconds
        while (fields := self.state(job))["JobState"] not in states:
            assert time.monotonic() < deadline, fields
            time.sleep(0.2)
        return fields


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons in a folder, and stop them."""
    folder.mkdir(parents=True)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(64))
    (folder / "munge.key").chmod(0o600)
    text = _CONFIGURATION.format(
        host=socket.gethostname(),
        folder=folder,
        cpus=os.cpu_count(),
        controller_port=launched.free_port(),
        node_port=launched.free_port(),
    )
    (folder / "slurm.conf").write_text(text)
    munge = [
        "munged",
        "--foreground",
        "--force",  # as root, with files in this folder
        f"--key-file={folder}/munge.key",
        f"--socket={folder}/munge.socket",
        f"--pid-file={folder}/munge.pid",
        f"--log-file={folder}/munge.log",
        f"--seed-file={folder}/munge.seed",
    ]
    running = Cluster(folder)
    daemons = []
    try:
        for command in (munge, ["slurmctld", "-D"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("w") as output:
                daemons.append(
                    subprocess.Popen(
                        command,
                        env=running.environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )
            time.sleep(1)
        yield running
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait(30)
