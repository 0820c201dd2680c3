"""Cache folders that are also in an object store: read through, written through.

The folder of a cache entry is immutable and named by the hash of its inputs. An object
beside it, written last, lists its files.
"""

import json
from pathlib import Path

from targetsft_jax.storage import atomic, object_store
from targetsft_jax.storage.location import is_url, local_dir, local_folder
from targetsft_jax.storage.user_path import user_path

_COMPLETE = ".complete.json"


def cache_folder(cache_dir: str | Path) -> Path:
    """Local folder of a cache; for a URL, the one that stands for it."""
    if is_url(cache_dir):
        return local_folder("cache", str(cache_dir))
    return user_path(cache_dir)


def read_through(folder: Path) -> bool:
    """Copy a cache entry from the store, if it is there and not in the local folder.

    Args:
        folder: folder of an entry, below a `cache_folder`.

    Returns:
        True if it was copied.
    """
    url = _url(folder)
    if url is None or folder.exists():
        return False
    complete = object_store.read_text(f"{url}{_COMPLETE}")
    if complete is None:
        return False
    objects = object_store.list_objects(url)
    with atomic.folder(folder, replace=False) as partial:
        for name in json.loads(complete):
            object_store.fetch(f"{url}/{name}", partial / name, objects[name])
    return True


def write_through(folder: Path) -> None:
    """Copy a complete local cache entry to the store, if it is not there."""
    url = _url(folder)
    if url is None or object_store.stored_object(f"{url}{_COMPLETE}") is not None:
        return
    names = object_store.publish_folder(folder, url)
    object_store.write_text(f"{url}{_COMPLETE}", json.dumps(names))


def _url(folder: Path) -> str | None:
    """URL of a cache entry; None if its cache is local alone."""
    root = local_dir() / "cache"
    folder = folder.absolute()
    if not folder.is_relative_to(root):
        return None
    return f"gs://{folder.relative_to(root).as_posix()}"
