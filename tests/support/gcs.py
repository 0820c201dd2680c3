"""Google Cloud Storage, emulated in this process and in memory, with one bucket."""

import contextlib
import functools
import importlib.util
import logging
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer

import pytest

BUCKET = "bucket"
_METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH")


@contextlib.contextmanager
def emulator() -> Iterator[dict[str, str]]:
    """Serve an empty bucket; yields the environment variables of its clients.

    The emulator's own server has one thread: a client that keeps its connection open
    would block all others. Here each connection has its own, and requests take turns.
    """
    if importlib.util.find_spec("gcsfs") is None:
        pytest.skip("needs the extra gcs")
    package = pytest.importorskip(
        "gcp_storage_emulator.server", reason="needs gcp-storage-emulator"
    )
    # An absent object is no error of a test.
    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    for name in ("api.bucket", "api.object"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    objects = package.objects
    objects.download = _with_generation(objects.download)
    storage = package.Storage(use_memory_fs=True)
    package.buckets.create_bucket(BUCKET, storage)
    turn = threading.Lock()

    def in_turn(method):
        def serve(handler):
            with turn:
                method(handler)

        return serve

    names = [f"do_{method}" for method in _METHODS]
    methods = {name: in_turn(getattr(package.RequestHandler, name)) for name in names}
    handler = type("Handler", (package.RequestHandler,), methods)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            """A killed client's connection ends; nothing to report."""

    with Server(("127.0.0.1", 0), functools.partial(handler, storage)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield _environment(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def _with_generation(download):
    """Send the object's version, too, by which TensorStore asks again for changes.

    Without it, it reports "Malformed StorageGeneration" when it reads a file twice.
    """

    def serve(request, response, storage, *args, **kwargs):
        download(request, response, storage, *args, **kwargs)
        if response.status < 300:
            names = request.params["bucket_name"], request.params["object_id"]
            generation = storage.get_file_obj(*names)["generation"]
            response["x-goog-generation"] = str(generation)

    return serve


def _environment(url: str) -> dict[str, str]:
    """Variables of gcsfs and of TensorStore, which Orbax writes with."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "TENSORSTORE_GCS_HTTP_VERSION": "1.1",
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
        "NO_GCE_CHECK": "true",
    }
