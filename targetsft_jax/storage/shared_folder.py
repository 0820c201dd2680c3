"""Folders of results that may be in an object store: copied before use, uploaded.

The local folder of a URL is its copy (see `local_copy`), in which a maker also writes.
"""

from collections.abc import Callable
from pathlib import Path

from targetsft_jax.storage import atomic, object_store
from targetsft_jax.storage.access import check_access
from targetsft_jax.storage.local_copy import copy_folder
from targetsft_jax.storage.location import is_url, local_folder
from targetsft_jax.storage.user_path import user_path


def folder_to_read(
    place: str, key: str, accept: Callable[[str], bool] = lambda name: True
) -> Path:
    """Local folder of results, copied from the store if they are there.

    Args:
        place: local folder or usable URL; it may not exist.
        key: configuration key or option, for messages.
        accept: predicate of the relative paths to copy.

    Raises:
        OSError: the store cannot be read.
    """
    if not is_url(place):
        return user_path(place)
    try:
        return copy_folder(place, key, accept)
    except FileNotFoundError:
        # The copies of a removed folder are not its results.
        folder = local_folder("copies", place)
        atomic.discard(folder)
        return folder


def folder_to_write(place: str, key: str) -> Path:
    """The same with write access, in which results are completed and then uploaded.

    Raises:
        OSError: the store cannot be read or written.
    """
    if is_url(place):
        check_access(key, place, write=True)
    return folder_to_read(place, key)


def upload(place: str, path: Path, *, last: str = "") -> None:
    """Upload a file or folder of a `folder_to_write`; nothing if it is local.

    Args:
        place: as in `folder_to_write`.
        path: in that folder.
        last: name of the file that is uploaded at the end.

    Raises:
        OSError: a file was not uploaded.
    """
    if not is_url(place):
        return
    name = path.relative_to(local_folder("copies", place)).as_posix()
    url = f"{place.rstrip('/')}/{name}"
    if path.is_dir():
        object_store.publish_folder(path, url, last=last)
    else:
        object_store.publish(path, url)
