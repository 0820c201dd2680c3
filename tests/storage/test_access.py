"""Access to a bucket: one sentence for each failure, within a short time."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

pytest.importorskip("google.auth", reason="needs the extra gcs")

from targetsft_jax.storage import access
from targetsft_jax.storage.access import check_access


@pytest.fixture(autouse=True)
def forgotten():
    access._answer.cache_clear()


@pytest.fixture
def answering(monkeypatch):
    """A store that answers every request with one status, or not at all."""
    servers = []

    def start(status):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if status is None:
                    time.sleep(5)
                    return
                self.send_response(status)
                self.end_headers()

            do_POST = do_DELETE = do_GET

            def log_message(self, *_):
                """Nothing on standard error."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "status, write, message",
    [
        (404, False, "run_dir is gs://b-1/x: there is no bucket b-1; create it with"),
        (403, False, "may not be read .HTTP 403.; grant the account roles/"),
        (403, True, "may not be written .HTTP 403."),
        (503, False, "answered HTTP 503 for the bucket b-1; try again later"),
        (None, False, "did not answer within 0.3 s .*; check the network"),
    ],
)
def test_each_failure_has_its_sentence(status, write, message, answering, monkeypatch):
    monkeypatch.setattr(access, "SECONDS", 0.3)
    answering(status)
    with pytest.raises(OSError, match=message) as caught:
        check_access("run_dir", "gs://b-1/x", write=write)
    assert "\n" not in str(caught.value)


def test_no_network_and_no_credentials(answering, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with pytest.raises(OSError, match="cannot be reached .*; check the network"):
        check_access("run_dir", "gs://b-1/x")

    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    def without(**_):
        raise DefaultCredentialsError("none were found; more")

    monkeypatch.setattr(google.auth, "default", without)
    assert access._session()[0] == "no credentials (none were found)"
    # A bucket that everyone may read needs none.
    assert access._refusal(200, "b-1", "no credentials", "read") == ""
    assert "gcloud auth application-default login" in access._refusal(
        401, "b-1", "no credentials", "read"
    )

    def endless(**_):
        time.sleep(5)

    monkeypatch.setattr(access, "SECONDS", 0.1)
    monkeypatch.setattr(google.auth, "default", endless)
    assert "within 0.1 s" in access._session()[0]


def test_a_bucket_that_may_be_written(store):
    check_access("run_dir", f"{store}/run", write=True)
    from targetsft_jax.storage.object_store import list_objects

    assert list_objects(store) == {}
    with pytest.raises(OSError, match="there is no bucket another"):
        check_access("run_dir", "gs://another/run", write=True)
