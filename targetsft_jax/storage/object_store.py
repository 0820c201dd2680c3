"""Objects of a store: listed, copied to local folders and back, and moved.

A copy is compared with the object's size and CRC32C, in both directions.
"""

import base64
import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targetsft_jax.storage import atomic
from targetsft_jax.storage.location import Location, is_remote, location

_BLOCK = 2**22
# Bytes of a file that is read before it is uploaded.
_AT_ONCE = 2**27


@dataclass(frozen=True)
class StoredObject:
    """An object, as its store lists it.

    Attributes:
        size: bytes.
        crc32c: CRC32C of its content, big-endian and in base64; empty if unknown.
        generation: version of the object.
    """

    size: int
    crc32c: str
    generation: str


def list_objects(url: str, *, depth: int | None = None) -> dict[str, StoredObject]:
    """Objects below a folder by their relative paths, in order.

    Args:
        url: URL of the folder.
        depth: number of levels of folders; None: all.

    Raises:
        ValueError: the name of an object is not one of a file below the folder.
    """
    root = url.partition("://")[2].rstrip("/") + "/"
    with _requests(url) as store:
        found = store.find(root, maxdepth=depth, detail=True)
    objects = {}
    for name in sorted(found):
        parts = name.removeprefix(root).split("/")
        # Consoles create an empty object for a folder.
        if name.startswith(root) and parts[-1]:
            if {"", ".", ".."} & set(parts):
                raise ValueError(f"gs://{name} is not the name of a file; rename it")
            objects["/".join(parts)] = _stored(found[name])
    return objects


def stored_object(url: str) -> StoredObject | None:
    """The object at a URL; None if there is none, such as at a folder."""
    try:
        with _requests(url) as store:
            info = store.info(url)
    except FileNotFoundError:
        return None
    return _stored(info) if info.get("type") == "file" else None


def matches(pattern: str) -> list[str]:
    """URLs of the objects that match a pattern, in order."""
    with _requests(pattern) as store:
        return sorted(f"gs://{name}" for name in store.glob(pattern))


def fetch(url: str, target: Path, stored: StoredObject) -> None:
    """Copy an object to a local file, atomically.

    Raises:
        OSError: the copy differs from the object.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic.file(target) as partial, _requests(url) as store:
        store.get_file(url, str(partial))
        if not is_copy(partial, stored):
            raise _difference(f"the local copy of {url}")


def is_copy(path: Path, stored: StoredObject) -> bool:
    """True if a local file has the content of an object, as far as that is known."""
    if not path.is_file() or path.stat().st_size != stored.size:
        return False
    return stored.crc32c in ("", _crc32c(path))


def publish(source: Path, url: str) -> None:
    """Copy a local file to an object, which is never half-written.

    A small file may grow meanwhile: the object is the file as of the start.

    Raises:
        OSError: the object differs from the file.
    """
    with _requests(url) as store:
        if source.stat().st_size > _AT_ONCE:
            store.put_file(str(source), url)
            intact = is_copy(source, _stored(store.info(url)))
        else:
            content = source.read_bytes()
            store.pipe_file(url, content)
            stored = _stored(store.info(url))
            intact = stored.size == len(content)
            intact &= stored.crc32c in ("", _crc32c_of(content))
    if not intact:
        raise _difference(f"the copy of {source} at {url}")


def publish_folder(source: Path, url: str, *, last: str = "") -> list[str]:
    """Copy the files of a local folder to objects; returns their relative paths.

    Args:
        source: the folder.
        url: URL of the folder of objects.
        last: name of the file that is copied at the end.
    """
    files = [path for path in sorted(source.rglob("*")) if path.is_file()]
    names = [path.relative_to(source).as_posix() for path in files]
    for name in sorted(names, key=lambda name: name == last):
        publish(source / name, f"{url}/{name}")
    return names


def read_text(url: str) -> str | None:
    """Text of a small object; None if there is none."""
    try:
        with _requests(url) as store:
            return store.cat_file(url).decode()
    except FileNotFoundError:
        return None


def write_text(url: str, text: str) -> None:
    """Write a small object."""
    with _requests(url) as store:
        store.pipe_file(url, text.encode())


def remove(url: str, names: Iterable[str]) -> None:
    """Remove objects of a folder."""
    if urls := [f"{url}/{name}" for name in names]:
        with _requests(url) as store:
            store.rm(urls)


def set_aside(path: Location, folder: Location) -> "Location | None":
    """Move a local folder or a folder of objects into another folder, to a free name.

    Returns:
        Its new path; None if another process has moved it.
    """
    if isinstance(path, Path):
        return atomic.set_aside(path, Path(folder) / path.name)
    target, number = folder / path.name, 1
    while target.exists():
        number += 1
        target = folder / f"{path.name}-{number}"
    with _requests(str(path)) as store:
        store.copy(str(path), str(target), recursive=True)
        store.rm(str(path), recursive=True)
    return target


@contextlib.contextmanager
def _requests(url: str) -> Iterator[Any]:
    """File system of a URL; its errors become OSErrors that name the URL."""
    try:
        yield _store(url)
    except (OSError, ValueError):
        raise
    # Clients of the store raise errors of any kind.
    except Exception as error:  # noqa: BLE001
        line = str(error).strip().split("\n")[0][:200]
        raise OSError(f"{url}: {type(error).__name__}: {line}") from error


def _store(url: str) -> Any:
    """File system of a URL."""
    assert is_remote(location(url)), url
    import fsspec

    return fsspec.filesystem("gs")


def _stored(info: Mapping[str, Any]) -> StoredObject:
    crc, generation = info.get("crc32c") or "", info.get("generation") or ""
    return StoredObject(int(info["size"]), crc, str(generation))


def _difference(copy: str) -> OSError:
    return OSError(
        f"{copy} differs in size or CRC32C: it changed meanwhile, or the connection is "
        "unreliable; start the command again"
    )


def _crc32c(path: Path) -> str:
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _crc32c_of(content: bytes) -> str:
    import google_crc32c

    return base64.b64encode(google_crc32c.Checksum(content).digest()).decode()
