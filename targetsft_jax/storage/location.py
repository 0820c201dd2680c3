"""Local paths and URLs of object stores: which of both a user's text is.

`pathlib` turns gs://bucket/x into gs:/bucket/x, so a URL stays a text or is an
`etils.epath.Path`, which has pathlib's methods on the store. Of all stores only Google
Cloud Storage is read and written directly; a bucket of another store is mounted.
"""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from targetsft_jax.extras import import_extra
from targetsft_jax.storage.user_path import user_path

if TYPE_CHECKING:
    from etils import epath

Location: TypeAlias = "Path | epath.Path"
"""A local path, or a path of an object store."""

LOCAL_DIR = "TARGETSFT_LOCAL_DIR"
"""Environment variable with the folder of local copies of objects."""

_DEFAULT_LOCAL_DIR = "~/.cache/targetsft_jax/gcs"
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://(?P<rest>.*)|(?P<damaged>gs|s3|az|hf):/.*"
)
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# Names that no object may have, and characters that Orbax and patterns expand.
_UNUSABLE_NAMES = ("", ".", "..")
_MOUNTS = {
    "s3": "mount-s3 {bucket} /mnt/{bucket}",
    "s3a": "mount-s3 {bucket} /mnt/{bucket}",
    "az": "blobfuse2 mount /mnt/{bucket} --container-name {bucket}",
    "abfs": "blobfuse2 mount /mnt/{bucket} --container-name {bucket}",
    "abfss": "blobfuse2 mount /mnt/{bucket} --container-name {bucket}",
}
_MOUNTS_FILE = "/proc/mounts"
# File systems whose rename copies every object.
_RENAME_COPIES = ("fuse.gcsfuse", "fuse.mount-s3", "fuse.mountpoint-s3", "fuse.s3fs")


def is_url(text: "str | Location") -> bool:
    """True for the URL of a store, supported or not, also if pathlib has changed it."""
    return _URL.fullmatch(str(text)) is not None


def url_refusal(key: str, text: str) -> str | None:
    """Error about a URL that cannot be used; None for a local path or a usable URL.

    Args:
        key: configuration key or option, for the message.
        text: its value.
    """
    match = _URL.fullmatch(text)
    if match is None:
        return None
    found = f"{key} is {text}"
    if match["damaged"]:
        return f"{found}; expected two slashes: {text.replace(':/', '://', 1)}"
    scheme, rest = match["scheme"].lower(), match["rest"]
    bucket, _, path = rest.rstrip("/").partition("/")
    if scheme in _MOUNTS:
        mount = _MOUNTS[scheme].format(bucket=bucket or "BUCKET")
        folder = "/".join(filter(None, ("/mnt", bucket or "BUCKET", path)))
        return (
            f"{found}; expected a local path or gs://BUCKET/PATH: mount it, for "
            f"example with `{mount}`, and pass {folder}"
        )
    if scheme == "hf":
        name = "/".join(rest.removeprefix("datasets/").split("/")[:2]) or "ORG/NAME"
        return (
            f"{found}; expected a hub id without a scheme for a model, {name}, or the "
            f"folder of a data set after `hf download {name} --local-dir FOLDER`"
        )
    if scheme != "gs":
        return (
            f"{found}; expected a local path or gs://BUCKET/PATH: copy the files to a "
            "local folder, or mount the store, and pass that path"
        )
    if not _BUCKET.fullmatch(bucket):
        return f"{found}; expected gs://BUCKET/PATH with the name of a bucket"
    if not path or any(name in _UNUSABLE_NAMES for name in path.split("/")):
        return f"{found}; expected gs://BUCKET/PATH with the path of a folder or file"
    return None


def location(text: "str | Location") -> Location:
    """A user's text as a local path, or as a path of an object store.

    Raises:
        ValueError: a URL of another store, or the extra `gcs` is not installed.
    """
    if not is_url(text):
        return user_path(str(text))
    url = str(text)
    if refusal := url_refusal("the path", url):
        raise ValueError(refusal)
    _file_system(url)
    from etils import epath

    return epath.Path(url.rstrip("/"))


def is_remote(path: Location) -> bool:
    """True for a path of an object store."""
    return not isinstance(path, Path)


def absolute(path: Location) -> Location:
    """Absolute form of a path; `etils` would put the current folder before a URL."""
    return path.absolute() if isinstance(path, Path) else path


def commits_by_file(folder: Location) -> bool:
    """True for a folder in which a rename would copy every object.

    There a folder is complete by a file in it, not by its name: an object store, or a
    mount of one.
    """
    return is_remote(folder) or _mount_type(Path(folder)) in _RENAME_COPIES


def local_dir() -> Path:
    """Folder of local copies of objects: TARGETSFT_LOCAL_DIR, or one in ~/.cache."""
    return user_path(os.environ.get(LOCAL_DIR) or _DEFAULT_LOCAL_DIR).absolute()


def local_folder(kind: str, url: str) -> Path:
    """Local folder that stands for a URL: LOCAL_DIR/KIND/BUCKET/PATH.

    Args:
        kind: use of the folder, such as "copies".
        url: a usable URL.
    """
    return local_dir() / kind / url.partition("://")[2].rstrip("/")


def _file_system(url: str) -> None:
    """Check that the packages of the store are installed, and configure them."""
    # Read once, at the import: it would ask for the kind of each bucket by gRPC, which
    # many accounts may not, and warn every time.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    import_extra("gcsfs", "gcs", url, "or mount the bucket and pass a local path")
    import fsspec

    # Orbax writes past this listing, which would then miss its files.
    fsspec.config.conf.setdefault("gs", {})["use_listings_cache"] = False


def _mount_type(path: Path) -> str:
    """Type of the file system that a path is on; empty if it is unknown."""
    try:
        lines = Path(_MOUNTS_FILE).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    path = path.absolute()
    found = ("", "")
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # Blanks in names are octal escapes.
        point = fields[1].replace("\\040", " ")
        if path.is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, fields[2])
    return found[1]
