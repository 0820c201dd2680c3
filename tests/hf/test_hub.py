"""Uploads with the hub's own client, to a server on this machine."""

import base64
import functools
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import HfApi

from targetsft_jax.hf import hub
from targetsft_jax.push import main
from targetsft_jax.storage import manifest


class Hub(BaseHTTPRequestHandler):
    """A few end points of the hub; repositories are name -> {path: content}."""

    def do_GET(self):
        repo = self.path.removeprefix("/api/models/").split("?")[0]
        repo = "/".join(repo.split("/")[:2])
        content = self.server.repos.get(repo)
        if content is None:
            self._send(404, {"error": "Repository not found"})
            return
        kind = {"type": "file", "oid": "0", "size": 1}
        self._send(200, [{**kind, "path": name} for name in content])

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen.append(self.headers["Authorization"])
        if self.server.status:
            self._send(self.server.status, {"error": "refused\nfor a reason"})
        elif self.path == "/api/repos/create":
            self._create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            self.server.cards.append(json.loads(body)["content"])
            self._send(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            self._send(200, {"files": files})
        elif "/commit/" in self.path:
            self._commit([json.loads(line) for line in body.splitlines()])

    def _create(self, request):
        repo = f"{request['organization']}/{request['name']}"
        private = request.get("private") or request.get("visibility") == "private"
        if repo in self.server.repos:
            self._send(409, {"error": "You already created this model repo"})
            return
        self.server.repos[repo], self.server.private[repo] = {}, bool(private)
        self._send(200, {"url": f"{self.server.url}/{repo}"})

    def _commit(self, operations):
        repo = self.server.repos["/".join(self.path.split("/")[3:5])]
        for each in operations:
            value = each["value"]
            if each["key"] == "file":
                repo[value["path"]] = base64.b64decode(value["content"])
            elif each["key"] == "deletedFile":
                del repo[value["path"]]
        url = f"{self.server.url}/org/name/commit/1"
        self._send(200, {"commitUrl": url, "commitOid": "1", "success": True})

    def _send(self, status, tree):
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    # The suite is offline otherwise.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.repos, server.private, server.cards, server.seen = {}, {}, [], []
    server.status, server.url = None, f"http://127.0.0.1:{server.server_port}"
    server.api = HfApi(endpoint=server.url, token="hf_secret")
    serve = functools.partial(server.serve_forever, poll_interval=0.02)
    threading.Thread(target=serve, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def export(tmp_path):
    folder = tmp_path / "hf"
    (folder / ".eval_results").mkdir(parents=True)
    for name in ("config.json", "model.safetensors", ".eval_results/gsm8k.yaml"):
        (folder / name).write_bytes(name.encode() * 3)
    (folder / "README.md").write_text("---\ntags: [a]\n---\n# Card\n")
    manifest.write(folder)
    return folder


def _content(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def test_all_files_of_the_export_arrive(server, export):
    text = hub.push(export, "org/name", private=True, api=server.api)
    assert server.repos == {"org/name": _content(export)}
    assert server.private == {"org/name": True}
    assert f"{server.url}/org/name (private)" in text and "5 files" in text
    assert server.cards == ["---\ntags: [a]\n---\n# Card\n"]
    assert {*server.seen} == {"Bearer hf_secret"}
    assert "(public)" in hub.push(export, "org/other", api=server.api)
    assert server.private["org/other"] is False


def test_an_existing_repository_needs_update(server, export):
    server.repos["org/name"] = {
        "model-00001-of-00002.safetensors": b"old",
        "notes.md": b"theirs",
        "config.json": b"old",
    }
    with pytest.raises(ValueError, match="org/name: it exists; pass --update .*409"):
        hub.push(export, "org/name", api=server.api)
    assert server.repos["org/name"]["config.json"] == b"old"
    hub.push(export, "org/name", update=True, api=server.api)
    expected = {**_content(export), "notes.md": b"theirs"}
    assert server.repos["org/name"] == expected
    with pytest.raises(ValueError, match="org/none: it does not exist.*omit --update"):
        hub.push(export, "org/none", update=True, api=server.api)
    with pytest.raises(ValueError, match="--private is for a new repository"):
        hub.push(export, "org/name", update=True, private=True, api=server.api)


def test_foreign_files_are_never_uploaded(server, export):
    (export / "secret.txt").write_text("mine")
    with pytest.raises(ValueError, match="secret.txt is not in its manifest"):
        hub.push(export, "org/name", api=server.api)
    (export / "secret.txt").unlink()
    (export / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json was changed"):
        hub.push(export, "org/name", api=server.api)
    assert server.repos == {} and server.seen == []


def test_a_folder_that_is_no_export_is_refused(server, tmp_path):
    with pytest.raises(
        ValueError, match="is not an exported model; expected .* RUN/hf"
    ):
        hub.push(tmp_path, "org/name", api=server.api)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ValueError, match=f"a run directory; .* {tmp_path / 'hf'}"):
        hub.push(tmp_path, "org/name", api=server.api)
    assert server.seen == []


def test_adapters_over_a_local_base_are_refused(server, tmp_path):
    config = tmp_path / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "/models/base"}')
    manifest.write(tmp_path)
    with pytest.raises(ValueError, match="/models/base as their base.*to-peft"):
        hub.push(tmp_path, "org/name", api=server.api)
    config.write_text('{"base_model_name_or_path": "org/base"}')
    manifest.write(tmp_path)
    hub.push(tmp_path, "org/name", api=server.api)
    assert set(server.repos["org/name"]) == {config.name, manifest.FILE}


@pytest.mark.parametrize(
    "status, text",
    [
        (401, "the token is not valid"),
        (403, "the token may not write there"),
        (422, "org/name: .*422"),
    ],
)
def test_a_refusal_is_one_sentence(server, export, status, text):
    server.status = status
    with pytest.raises(ValueError, match=text) as error:
        hub.push(export, "org/name", api=server.api)
    assert "\n" not in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_sentence(export, server):
    api = HfApi(endpoint="http://127.0.0.1:9", token="hf_secret")
    with pytest.raises(OSError, match="the hub cannot be reached") as error:
        hub.push(export, "org/name", api=api)
    assert "\n" not in str(error.value) and "hf_secret" not in str(error.value)


def test_the_command_needs_a_token(export, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert main([str(export), "org/name"]) == 1
    expected = "there is no token of the hub; log in with `hf auth login`"
    assert expected in capsys.readouterr().err
    assert main([str(export), "name"]) == 1
    assert "expected ORGANIZATION/NAME" in capsys.readouterr().err
