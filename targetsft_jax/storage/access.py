"""Access to an object store, tested before it is needed, within seconds.

The clients of the store repeat a failing request for minutes. One request of our own,
with a short timeout, shows if bucket, credentials and network are there.
"""

import functools
import os
import queue
import threading
import uuid
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import quote

from targetsft_jax.storage.location import location

_T = TypeVar("_T")

SECONDS = 10
"""Limit for the search of credentials, and for a request."""

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_LOGIN = (
    "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS "
    "to a key file, or run on a machine with a service account"
)


def check_access(key: str, url: str, *, write: bool = False) -> None:
    """Check that a folder or file of a bucket can be listed, and written if needed.

    A success is remembered, for the bucket, in this process.

    Args:
        key: configuration key or option, for the message.
        url: usable URL.
        write: also write and delete a small object in the folder.

    Raises:
        OSError: no such bucket, no credentials, no permission, or no network; one
            sentence with the remedy.
        ValueError: the extra `gcs` is not installed.
    """
    location(url)
    bucket, _, path = url.partition("://")[2].partition("/")
    if reason := _failure(bucket, path if write else None):
        raise PermissionError(f"{key} is {url}: {reason}")


@functools.lru_cache
def _answer(bucket: str, path: str | None) -> None:
    """Raise ValueError with the failure of the access, if any; remembers successes."""
    if reason := _tested(bucket, path):
        raise ValueError(reason)


def _failure(bucket: str, path: str | None) -> str:
    try:
        _answer(bucket, path)
    except ValueError as error:
        return str(error)
    return ""


def _tested(bucket: str, path: str | None) -> str:
    """Failure of a request to list a bucket, or to write into a folder, in words."""
    import requests

    emulator = os.environ.get("STORAGE_EMULATOR_HOST")
    host = emulator or "https://storage.googleapis.com"
    found, session = "", requests.Session()
    if not emulator:
        found, session = _session()
    try:
        if path is None:
            listing = f"{host}/storage/v1/b/{quote(bucket)}/o"
            status = session.get(
                listing, params={"maxResults": "1"}, timeout=SECONDS
            ).status_code
        else:
            status = _write(session, host, bucket, path)
    # Those of requests, and of the credentials, which a request refreshes.
    except Exception as error:  # noqa: BLE001
        return _no_answer(host, error)
    return _refusal(status, bucket, found, "read" if path is None else "written")


def _session() -> tuple[str, Any]:
    """Missing credentials in words, and a session with those that were found."""
    import google.auth
    import requests
    from google.auth.transport.requests import AuthorizedSession

    try:
        credentials, _ = _within(lambda: google.auth.default(scopes=[_SCOPE]))
    # A machine without credentials, or with damaged ones.
    except Exception as error:  # noqa: BLE001
        line = str(error).strip().split("\n")[0].split("; ")[0][:150]
        return f"no credentials ({line or type(error).__name__})", requests.Session()
    return "", AuthorizedSession(credentials, refresh_timeout=SECONDS)


def _write(session: Any, host: str, bucket: str, path: str) -> int:
    """Status of writing a small object, and deleting it."""
    name = f"{path}/.targetsft-{uuid.uuid4().hex}"
    uploads = f"{host}/upload/storage/v1/b/{quote(bucket)}/o"
    options = {"uploadType": "media", "name": name}
    answer = session.post(uploads, params=options, data=b"test", timeout=SECONDS)
    if answer.status_code >= 300:
        return answer.status_code
    url = f"{host}/storage/v1/b/{quote(bucket)}/o/{quote(name, safe='')}"
    return session.delete(url, timeout=SECONDS).status_code


def _refusal(status: int, bucket: str, found: str, done: str) -> str:
    """Sentence about the status of an answer; empty for a success."""
    if status < 300:
        return ""
    if status == 404:
        return (
            f"there is no bucket {bucket}; create it with `gcloud storage buckets "
            f"create gs://{bucket}`, or correct its name"
        )
    if status in (401, 403):
        if found:
            return f"{found}; {_LOGIN}"
        return (
            f"the bucket {bucket} exists and may not be {done} (HTTP {status}); grant "
            "the account roles/storage.objectUser on it"
        )
    return f"the store answered HTTP {status} for the bucket {bucket}; try again later"


def _no_answer(host: str, error: Exception) -> str:
    names = {type(each).__name__ for each in (error, error.__cause__) if each}
    if {"RefreshError", "DefaultCredentialsError"} & names:
        line = str(error).strip().split("\n")[0][:150]
        return f"the credentials were refused ({line}); {_LOGIN}"
    slow = any("Timeout" in name for name in names)
    answer = f"did not answer within {SECONDS} s" if slow else "cannot be reached"
    return (
        f"{host} {answer} ({type(error).__name__}); check the network, the proxy and "
        "the firewall of this machine"
    )


def _within(action: Callable[[], _T]) -> _T:
    """Result of an action that may hang, which is then abandoned.

    Raises:
        TimeoutError: it took more than SECONDS.
    """
    results: queue.Queue[tuple[_T | None, Exception | None]] = queue.Queue()

    def work() -> None:
        try:
            results.put((action(), None))
        except Exception as error:  # noqa: BLE001
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=SECONDS)
    except queue.Empty:
        raise TimeoutError(f"none were found within {SECONDS} s") from None
    if error is not None:
        raise error
    return result  # type: ignore[return-value]
