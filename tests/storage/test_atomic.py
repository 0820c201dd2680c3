"""Atomic files and folders: kills at every moment, and concurrent writers."""

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from targetsft_jax.storage import atomic

ROOT = Path(__file__).resolve().parents[2]
FILES = ("a", "b", "inner/c")

# Replaces the content of a target by increasing numbers. Each replacement is a process
# that kills itself before its n-th file operation; n grows until one finishes.
KILLED = """
import os, signal, sys
from pathlib import Path
from targetsft_jax.storage import atomic

target, kind, exchanges = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "True"
exchange = atomic._exchange
events = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
remaining = None

def step(event, arguments=()):
    global remaining
    inside = event != "open" or str(arguments[0]).startswith(str(target.parent))
    if remaining is not None and event in (*events, "exchanged") and inside:
        remaining -= 1
        if remaining == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def exchange_with_step(*names):
    success = exchanges and exchange(*names)
    step("exchanged")
    return success

sys.addaudithook(step)
atomic._exchange = exchange_with_step
atomic._sync = lambda path: None  # a killed process takes no written page with it

def write(number):
    if kind == "text":
        atomic.write_text(target, str(number))
        return
    with atomic.folder(target) as partial:
        for name in ("a", "b", "inner/c"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(str(number))

def content(path):
    if kind == "text":
        return int(path.read_text())
    (number,) = {int((path / name).read_text()) for name in ("a", "b", "inner/c")}
    return number

write(0)
number = kills = restored = 0
while True:
    child = os.fork()
    if child == 0:
        remaining = kills + 1
        write(number + 1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert os.WIFSIGNALED(status), status
    kills += 1
    if target.exists():
        number = content(target)
    else:
        assert kind == "folder" and not exchanges
        assert content(atomic.former(target)) == number
        restored += 1
assert content(target) == number + 1
assert os.listdir(target.parent) == [target.name], os.listdir(target.parent)
print(kills, restored)
"""


@pytest.mark.parametrize("kind", ["text", "folder"])
@pytest.mark.parametrize("exchanges", [True, False])
def test_killed_at_every_moment(tmp_path, kind, exchanges):
    """The target is the old or the new one, and the next writer removes leftovers."""
    target = tmp_path / "place" / "target"
    target.parent.mkdir()
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(target), kind, str(exchanges)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    kills, restored = map(int, result.stdout.split())
    assert kills >= (2 if kind == "text" else 15)
    assert (restored > 0) == (kind == "folder" and not exchanges)


# One of several writers of a folder: replaces it `times` times, with its number.
MAKER = """
import sys
from pathlib import Path
from targetsft_jax.storage import atomic

target, number, times = Path(sys.argv[1]), *map(int, sys.argv[2:4])
if sys.argv[4] == "False":
    atomic._exchange = lambda one, other: False
atomic._sync = lambda path: None
for _ in range(times):
    with atomic.folder(target) as partial:
        for name in ("a", "b", "inner/c"):
            (partial / name).parent.mkdir(exist_ok=True)
            (partial / name).write_text(str(number))
"""


def _content(folder: int) -> set[str]:
    """Numbers in an open folder, under any name; empty while it is being removed."""

    def read(name):
        file = os.open(name, os.O_RDONLY, dir_fd=folder)
        try:
            return os.read(file, 100).decode()
        finally:
            os.close(file)

    try:
        return {read(name) for name in FILES}
    except FileNotFoundError:
        return set()


@pytest.mark.parametrize("exchanges", [True, False])
def test_writers_of_one_folder_never_mix(tmp_path, exchanges):
    """Three concurrent writers; every reading has the number of only one of them."""
    target = tmp_path / "target"
    command = [sys.executable, "-c", MAKER, str(target)]
    writers = [
        subprocess.Popen(
            [*command, str(number), "100", str(exchanges)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for number in range(3)
    ]
    while not target.exists():
        time.sleep(0.01)
    readings = 0
    while any(writer.poll() is None for writer in writers):
        try:
            folder = os.open(target, os.O_RDONLY)
        except FileNotFoundError:
            assert not exchanges
            continue
        content = _content(folder)
        os.close(folder)
        assert len(content) < 2, content
        readings += len(content)
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert readings
    assert os.listdir(tmp_path) == ["target"]


def _write(target, text, **settings):
    with atomic.folder(target, **settings) as partial:
        (partial / "a").write_text(text)


@pytest.mark.parametrize("replace", [True, False])
def test_two_writers_agree_on_the_winner(tmp_path, replace):
    target = tmp_path / "target"
    with atomic.folder(target, replace=replace) as late:
        (late / "a").write_text("late")
        _write(target, "early", replace=replace)
        assert late.is_dir()
    assert (target / "a").read_text() == ("late" if replace else "early")
    assert os.listdir(tmp_path) == ["target"]


def test_a_block_that_raises_changes_nothing(tmp_path):
    target = tmp_path / "target"
    for before in ([], ["target"]):
        with pytest.raises(ZeroDivisionError), atomic.folder(target) as partial:
            (partial / "a").write_text("half")
            raise ZeroDivisionError
        assert os.listdir(tmp_path) == before
        _write(target, "complete")
    assert (target / "a").read_text() == "complete"


def test_a_target_that_must_not_be_replaced(tmp_path):
    target = tmp_path / "target"

    def check(folder):
        if folder.exists():
            raise FileExistsError(folder)

    _write(target, "first", check=check)
    with pytest.raises(FileExistsError):
        _write(target, "second", check=check)
    assert (target / "a").read_text() == "first"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_rename_that_fails(tmp_path, monkeypatch, exchanges, fails):
    """The old folder keeps its name."""
    target = tmp_path / "target"
    _write(target, "old")
    if not exchanges:
        monkeypatch.setattr(atomic, "_exchange", lambda one, other: False)
    calls, rename = [], os.rename

    def faulty(one, other):
        calls.append(other)
        if len(calls) == fails:
            raise OSError(errno.EIO, "Input/output error")
        rename(one, other)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", faulty)
        if exchanges and fails > 1:
            _write(target, "new")  # one rename is tried, and then the exchange
        else:
            with pytest.raises(OSError, match="Input/output"):
                _write(target, "new")
    succeeded = exchanges and fails > 1
    assert (target / "a").read_text() == ("new" if succeeded else "old")
    assert os.listdir(tmp_path) == ["target"]


def _dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def _leftover(target, machine, pid, start):
    path = target.with_name(f".{target.name}.partial-{machine}-{pid}-{start}-0123abcd")
    path.mkdir()
    (path / "a").write_text("half")
    return path


def test_only_leftovers_of_dead_writers_are_removed(tmp_path, monkeypatch):
    target = tmp_path / "target-with-dashes"
    here, start = atomic._machine(), atomic._start_time(os.getpid())
    dead = _leftover(target, here, _dead_process(), "1")
    reused = _leftover(target, here, os.getpid(), int(start) - 1)
    alive = _leftover(target, here, os.getpid(), start)
    elsewhere = _leftover(target, "0" * 8, 1, "1")
    others = [f".{target.name}.{end}" for end in ("partial", "partial-2026", "old-2")]
    for name in others:
        (tmp_path / name).mkdir()
    _write(target, "new")
    assert not dead.exists() and not reused.exists()
    assert alive.exists() and elsewhere.exists()
    # Leftovers of another host are removed once they are stale.
    monkeypatch.setattr(atomic, "STALE_SECONDS", -1)
    _write(target, "new")
    assert sorted(os.listdir(tmp_path)) == sorted([alive.name, target.name, *others])


def test_a_zombie_counts_as_dead():
    process = subprocess.Popen([sys.executable, "-c", ""])
    for _ in range(1000):
        if atomic._start_time(process.pid) == "":
            break
        time.sleep(0.01)
    else:
        pytest.fail("the process that ended still counts as alive")
    process.wait()


def test_a_folder_set_aside_by_a_kill_is_restored(tmp_path):
    target = tmp_path / "target"
    name = ".target.old-0123abcd-1-2-0123abcd"
    _write(target, "old")
    assert atomic.former(target) is None
    target.rename(tmp_path / name)
    assert atomic.former(target) == tmp_path / name
    with pytest.raises(ZeroDivisionError), atomic.folder(target):
        raise ZeroDivisionError
    assert (target / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["target"]


@pytest.mark.parametrize("end", ["old", "old-2026", "old-0-1-2-3", "partial"])
def test_a_folder_of_similar_name_is_left_alone(tmp_path, end):
    note = tmp_path / f".target.{end}" / "note"
    note.parent.mkdir()
    note.write_text("mine")
    for _ in range(2):
        _write(tmp_path / "target", "new")
    assert note.read_text() == "mine"


def test_text_replaces_a_file_without_leftovers(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    for text in ("one: π\n", "two\n"):
        atomic.write_text(path, text)
        assert path.read_text("utf-8") == text

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_text(path, "three\n")
    assert path.read_text("utf-8") == "two\n"
    assert os.listdir(tmp_path) == ["config.yaml"]


def test_discard_removes_a_folder_that_may_be_gone(tmp_path):
    target = tmp_path / "target"
    _write(target, "x")
    for _ in range(2):
        atomic.discard(target)
        assert os.listdir(tmp_path) == []


def test_damaged_content_is_set_aside_under_a_free_name(tmp_path):
    for number in (1, 2, 3):
        (tmp_path / "a").write_text(str(number))
        moved = atomic.set_aside(tmp_path / "a")
        assert moved is not None and moved.read_text() == str(number)
    names = ["a.damaged", "a.damaged-2", "a.damaged-3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    (tmp_path / "5").mkdir()
    assert atomic.set_aside(tmp_path / "5", tmp_path / "x" / "5") == tmp_path / "x/5"
    assert atomic.set_aside(tmp_path / "gone") is None
