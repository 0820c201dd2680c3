"""Local copies of objects, for readers that map files or read them several times.

A copy is made once: later uses list the objects and download those that changed. Copies
are in LOCAL_DIR/copies, under the names of bucket and objects, and may be deleted.
"""

import contextlib
import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from targetsft_jax.storage import atomic, object_store
from targetsft_jax.storage.access import check_access
from targetsft_jax.storage.location import local_folder
from targetsft_jax.storage.object_store import StoredObject

_THREADS = 8


def copy_file(url: str, key: str = "the path") -> Path:
    """Local copy of an object.

    Args:
        url: usable URL of an object.
        key: configuration key or option, for messages.

    Raises:
        FileNotFoundError: no such object.
        OSError: the store cannot be read.
    """
    check_access(key, url)
    stored = object_store.stored_object(url)
    if stored is None:
        raise FileNotFoundError(f"{key} is {url}: the bucket has no such object")
    folder, _, name = url.rpartition("/")
    _update(folder, {name: stored}, index=url)
    return local_folder("copies", folder) / name


def copy_folder(
    url: str,
    key: str = "the path",
    accept: Callable[[str], bool] = lambda name: True,
    *,
    depth: int | None = None,
) -> Path:
    """Local copy of the objects of a folder.

    Args:
        url: usable URL of a folder.
        key: configuration key or option, for messages.
        accept: predicate of the relative paths to copy.
        depth: number of levels of folders; None: all.

    Raises:
        FileNotFoundError: no object is in the folder.
        OSError: the store cannot be read.
        ValueError: an object's name leaves the folder.
    """
    check_access(key, url)
    objects = object_store.list_objects(url, depth=depth)
    if not objects:
        raise FileNotFoundError(f"{key} is {url}: the bucket has no such object")
    chosen = {name: stored for name, stored in objects.items() if accept(name)}
    folder = local_folder("copies", url)
    _update(url, chosen, index=url)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and accept(name) and name not in objects:
            if depth is None or name.count("/") < depth:
                path.unlink(missing_ok=True)
    return folder


def _update(url: str, objects: dict[str, StoredObject], index: str) -> None:
    """Download the objects whose copies are absent, or of another version."""
    folder = local_folder("copies", url)
    path = local_folder("index", index).with_name(f"{index.rpartition('/')[2]}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _exclusive(path.with_suffix(".lock")):
        known = _read(path)
        entries = {name: dataclasses.astuple(x) for name, x in objects.items()}
        outdated = [
            name
            for name, entry in entries.items()
            if tuple(known.get(name, ())) != entry
            or not (folder / name).is_file()
            or (folder / name).stat().st_size != entry[0]
        ]

        def copy(name: str) -> None:
            # The content may be there: another URL's copy, or a file that was uploaded.
            if not object_store.is_copy(folder / name, objects[name]):
                object_store.fetch(f"{url}/{name}", folder / name, objects[name])

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(copy, outdated))
        if outdated:
            atomic.write_text(path, json.dumps({**known, **entries}))


def _read(path: Path) -> dict[str, list]:
    """Versions of the copies; empty if they are unknown."""
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


@contextlib.contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Wait for other processes that copy the same objects."""
    with path.open("w") as file:
        with contextlib.suppress(OSError):  # No locks: each process copies.
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
