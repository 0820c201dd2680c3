"""Fixtures of fuzz tests: outcome counts, and confinement to a folder."""

import os
import sys
import sysconfig
from pathlib import Path

import pytest
from support.counted import COUNTED


@pytest.fixture
def count(record_property):
    """Function count(kind, outcome) that counts one malformed input."""
    counts = {}

    def one(kind: str, outcome: str) -> None:
        counts[kind, outcome] = counts.get((kind, outcome), 0) + 1

    yield one
    for (kind, outcome), number in counts.items():
        record_property(COUNTED + f"{kind}, {outcome}", number)


@pytest.fixture
def confined():
    """Fail the test if anything opens, lists, creates or removes a path outside.

    `confined(folder)` begins the watch, by Python's audit events, which cover every
    library. Files of Python and of installed packages may be read.
    """
    system = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, "/proc", "/sys")]
    system += [Path(p).resolve() for p in sysconfig.get_paths().values()]
    # The checkout: pytest itself reads it.
    system += [Path(__file__).resolve().parents[2], Path("/dev")]
    watch = {"inside": None}
    reached = []

    def audit(event, arguments):
        if watch["inside"] is None or event not in _EVENTS:
            return
        for argument in arguments[: _EVENTS[event]]:
            if not isinstance(argument, str | bytes | os.PathLike):
                continue
            path = Path(os.fsdecode(argument))
            if not path.is_absolute() and event in _RELATIVE:
                # `rmtree` walks open folders and removes names relative to them.
                opened = arguments[_RELATIVE[event]]
                path = Path(os.readlink(f"/proc/self/fd/{opened}"), path)
            path = path.absolute()
            # Only the parents are resolved: an inner link that points outside may be
            # named, but not followed.
            path = path.parent.resolve() / path.name
            if event == "open":
                looks = not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            else:
                looks = event in ("os.listdir", "os.scandir")
            allowed = [*watch["inside"], *system] if looks else watch["inside"]
            if not any(path == a or a in path.parents for a in allowed):
                reached.append(f"{event} {path}")

    sys.addaudithook(audit)

    def begin(*folders):
        watch["inside"] = [Path(folder).resolve() for folder in folders]

    yield begin
    watch["inside"] = None
    assert not reached, f"reached outside its folder: {reached[:5]}"


# Event -> number of its leading arguments that are paths.
_EVENTS = {
    "open": 1,
    "os.listdir": 1,
    "os.scandir": 1,
    "os.mkdir": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.rename": 2,
    "os.symlink": 2,
    "os.truncate": 1,
    "shutil.rmtree": 1,
    "shutil.move": 2,
}


# Event -> index of the argument with the folder of a relative path.
_RELATIVE = {"os.remove": 1, "os.rmdir": 1}
