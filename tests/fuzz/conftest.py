"""What every fuzz test counts, and where it may reach."""

import os
import sys
import sysconfig
from pathlib import Path

import pytest
from support.counted import COUNTED


@pytest.fixture
def count(record_property):
    """count(kind, outcome): one more malformed input, and what became of it."""
    found = {}

    def one(kind: str, outcome: str) -> None:
        found[kind, outcome] = found.get((kind, outcome), 0) + 1

    yield one
    for (kind, outcome), number in found.items():
        record_property(COUNTED + f"{kind}, {outcome}", number)


@pytest.fixture
def confined():
    """Fails the test if anything opens, lists, makes or removes a path outside.

    `confined(folder)` begins the watch: by Python's audit events, whatever library
    does it. Python's own files and those of installed packages may be read.
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
        for given in arguments[: _EVENTS[event]]:
            if not isinstance(given, str | bytes | os.PathLike):
                continue
            path = Path(os.fsdecode(given))
            if not path.is_absolute() and event in _RELATIVE:
                # `rmtree` walks with open folders, and names what is in them.
                opened = arguments[_RELATIVE[event]]
                path = Path(os.readlink(f"/proc/self/fd/{opened}"), path)
            path = path.absolute()
            # Not resolved: a link inside that points out would pass as outside, and
            # following it is what must not happen. Its parents are resolved.
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


# Event -> how many of its leading arguments are paths.
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


# Event -> which argument is the folder that a relative path begins in.
_RELATIVE = {"os.remove": 1, "os.rmdir": 1}
