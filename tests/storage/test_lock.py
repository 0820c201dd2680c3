"""Lock on a folder: one owner at a time, named, and released at any end."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from targetsft_jax.storage.lock import LockedError, hold

HOLD = """
import sys, time
from pathlib import Path
from targetsft_jax.storage.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def owner(tmp_path):
    """Another process that owns the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run" / "lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_owner_is_named(tmp_path, owner):
    expected = rf"run is in use by process {owner.pid} on {os.uname().nodename} since"
    with pytest.raises(LockedError, match=expected), hold(tmp_path / "run" / "lock"):
        pass
    # The refusal leaves the lock and its folder to the owner.
    assert (tmp_path / "run" / "lock").read_text().startswith(f"process {owner.pid} ")


def test_a_killed_owner_frees_the_folder(tmp_path, owner):
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    with hold(tmp_path / "run" / "lock") as supported:
        assert supported
    assert not (tmp_path / "run" / "lock").exists()


@pytest.mark.parametrize("kind", ["text", "link", "folder", "fifo"])
def test_a_file_that_is_no_lock_stays(tmp_path, kind):
    path, other = tmp_path / "run" / "lock", tmp_path / "other"
    path.parent.mkdir()
    other.write_text("mine")
    if kind == "text":
        path.write_text("mine")
    elif kind == "link":
        path.symlink_to(other)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    with pytest.raises(FileExistsError, match=r"lock exists and is not the lock of"):
        with hold(path):
            pass
    assert path.lstat() and other.read_text() == "mine"
    assert kind != "text" or path.read_text() == "mine"


def test_two_owners_in_one_process_and_through_a_link(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with hold(tmp_path / "run" / "lock"):
        for folder in ("run", "link"):
            with pytest.raises(LockedError), hold(tmp_path / folder / "lock"):
                pass


def test_a_new_folder_without_content_is_removed_and_no_other(tmp_path):
    with hold(tmp_path / "a" / "b" / "lock"):
        pass
    assert list(tmp_path.iterdir()) == []
    with hold(tmp_path / "a" / "b" / "lock"):
        (tmp_path / "a" / "file").touch()
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
    (tmp_path / "empty").mkdir()
    with hold(tmp_path / "empty" / "lock"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_owners_in_turn_never_overlap(tmp_path):
    """Each release removes the file, and a waiting opener must not own the old one."""
    inside, overlaps, entries = [], [], []

    def work() -> None:
        while len(entries) < 200:
            try:
                with hold(tmp_path / "run" / "lock"):
                    inside.append(1)
                    overlaps.append(len(inside) > 1)
                    entries.append(1)
                    inside.pop()
            except (LockedError, FileNotFoundError):
                # The folder is removed with its lock.
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(overlaps) >= 200 and not any(overlaps)


def test_a_file_system_without_locks_is_reported(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with hold(tmp_path / "run" / "lock") as supported:
        assert not supported
    assert list(tmp_path.iterdir()) == []
