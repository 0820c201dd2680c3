"""Server with OpenAI's API: token ids, seeds, retries and refusals."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from targetsft_jax.evaluation.backends import server as server_module
from targetsft_jax.evaluation.backends.backend import Work
from targetsft_jax.evaluation.backends.server import Server
from targetsft_jax.generation.sampling import SamplingSettings

SETTINGS = SamplingSettings(samples=2, max_new_tokens=7, temperature=0.5)


@pytest.fixture
def serve(monkeypatch):
    """Start a server that answers with the given statuses, then 200."""
    monkeypatch.setattr(server_module, "_FIRST_WAIT", 0.001)
    running = []

    def start(statuses=(), reply=None):
        bodies, left = [], list(statuses)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                size = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(size))
                status = left.pop(0) if left else 200
                bodies.append((self.path, body))
                text = f"sample {body['seed']}"
                choice = {"text": text, "finish_reason": "stop"}
                answer = reply or json.dumps({"choices": [choice]})
                self.send_response(status)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *arguments):
                pass

        http = HTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        running.append((http, thread))
        return f"http://127.0.0.1:{http.server_port}", bodies

    yield start
    for http, thread in running:
        http.shutdown()
        thread.join()
        http.server_close()


WORK = [Work("p1", [5, 6, 7], range(1, 3)), Work("p2", [8], range(1, 3))]


@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_prompts_are_token_ids_with_a_seed_per_sample(serve, suffix):
    url, bodies = serve()
    backend = Server(url + suffix, "m", [2, 3], requests=1)
    samples = backend.complete(WORK, SETTINGS, seed=4)
    assert [path for path, _ in bodies] == ["/v1/completions"] * 4
    assert [body["prompt"] for _, body in bodies] == [[5, 6, 7]] * 2 + [[8]] * 2
    first = bodies[0][1]
    assert (first["max_tokens"], first["temperature"], first["n"]) == (7, 0.5, 1)
    assert first["stop_token_ids"] == [2, 3] and "top_k" not in first
    seeds = [body["seed"] for _, body in bodies]
    assert len(set(seeds)) == 4
    expected = [[f"sample {seeds[0]}", f"sample {seeds[1]}"]]
    expected.append([f"sample {seeds[2]}", f"sample {seeds[3]}"])
    assert [[sample.text for sample in row] for row in samples] == expected
    assert all(sample.finished for row in samples for sample in row)


def test_a_busy_server_is_asked_again(serve):
    url, bodies = serve([503, 429])
    backend = Server(url, "m", [], requests=1)
    assert backend.complete(WORK[:1], SETTINGS, seed=0)
    assert len(bodies) == 4


def test_a_refusal_names_the_reason(serve):
    url, _ = serve([400])
    with pytest.raises(OSError, match=r"refused a request \(400: .*token ids"):
        Server(url, "m", [], requests=1).complete(WORK[:1], SETTINGS, seed=0)


@pytest.mark.parametrize("reply", ["{}", "[]", '{"choices": []}', "no json"])
def test_another_api_is_named(serve, reply):
    url, _ = serve(reply=reply)
    with pytest.raises(OSError, match="answered"):
        Server(url, "m", [], requests=1).complete(WORK[:1], SETTINGS, seed=0)


def test_an_absent_server_is_one_sentence(monkeypatch):
    monkeypatch.setattr(server_module, "_FIRST_WAIT", 0.001)
    with pytest.raises(OSError, match="cannot be reached .*; start the server"):
        Server("http://127.0.0.1:9", "m", []).complete(WORK[:1], SETTINGS, seed=0)
