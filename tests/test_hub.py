"""Weights as folders and as repositories of a Hub, which here is a server on this machine."""

import base64
import hashlib
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from safetensors.torch import save_file

from flowmatch import hub
from flowmatch.flow import FlowNetS, save_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """The part of the Hub that flowmatch uses: downloads, and uploads in one commit.

    Attributes:
        files: Contents by path, ``"org/name/file"``.
        sizes: Sizes that are claimed for files, by path.
        log: Methods and paths of all requests.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.sizes, self.log = {}, {}, []
        self.address = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        headers = {"Content-Length": len(body)} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reply_json(self, value, status=200):
        self.reply(status, json.dumps(value).encode(), Content_Type="application/json")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.log.append((self.command, self.path))
        if self.path.startswith("/api/"):
            return self.reply_json({"id": "org/net", "sha": COMMIT, "siblings": []})
        org, name, _, revision, file = self.path.strip("/").split("/")
        content = self.server.files.get(f"{org}/{name}/{file}")
        if content is None:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        size = self.server.sizes.get(file, len(content))
        return self.reply(200, content, X_Repo_Commit=COMMIT, ETag=tag, Content_Length=size)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.log.append((self.command, self.path))
        if self.path == "/api/repos/create":
            name = json.loads(body)
            self.server.private = name.get("private") or name.get("visibility")
            self.reply_json({"url": f"{self.server.address}/org/net", "name": "org/net"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.reply_json({"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    path = f"org/net/{line['value']['path']}"
                    self.server.files[path] = base64.b64decode(line["value"]["content"])
            url = f"{self.server.address}/org/net/commit/{COMMIT}"
            self.reply_json({"success": True, "commitOid": COMMIT, "commitUrl": url})
        else:
            self.reply_json({})


@pytest.fixture
def fake_hub(tmp_path, monkeypatch):
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def tiny(tmp_path):
    """Return a file of weights of a tiny network, and the network."""
    network = FlowNetS(width=1 / 16)
    save_weights(tmp_path / "tiny.safetensors", network, "flownets", {"width": 1 / 16})
    return tmp_path / "tiny.safetensors", network


def assert_same(network, original):
    assert type(network) is type(original)
    assert not network.training
    for key, value in original.state_dict().items():
        assert torch.equal(network.state_dict()[key], value.half().float())


def test_folder_round_trip(tmp_path, tiny):
    file, network = tiny
    hub.save_pretrained(file, tmp_path / "net")
    assert_same(hub.from_pretrained(tmp_path / "net"), network)
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    assert config == {
        "library_name": "flowmatch",
        "task": "flow",
        "model": "flownets",
        "arguments": {"width": 1 / 16},
    }
    assert "# tiny" in (tmp_path / "net" / "README.md").read_text()


def test_shipped_weights_get_the_card_of_the_index(tmp_path):
    hub.save_pretrained("flow/pyramid", tmp_path / "net")
    network = hub.from_pretrained(str(tmp_path / "net"))
    assert type(network).__name__ == "PyramidNet"
    card = (tmp_path / "net" / "README.md").read_text()
    assert card.startswith("---\nlicense: bsd-3-clause\nlibrary_name: flowmatch\ntags: [flow]\n---")
    for part in (
        "# flow/pyramid",
        "## Limits",
        "Training data:",
        "flowmatch train flow",
        "| --- |",
    ):
        assert part in card


@pytest.mark.parametrize(
    "config, message",
    [
        ("{", "config.json is no JSON"),
        ("[" * 30000, "config.json is no JSON"),
        ("[]", "task must be one of flow"),
        ('{"task": ["flow"], "model": "flownets"}', "task must be one of flow"),
        ('{"task": "flow", "model": "hardnet"}', "model must be one of pyramid"),
        ('{"task": "flow", "model": {}}', "model must be one of pyramid"),
        ('{"task": "flow", "model": "raft"}', "do not name the same network"),
        (" " * 70000, "config.json has 70000 bytes, more than 65536"),
    ],
)
def test_a_folder_of_a_stranger_is_refused(tmp_path, tiny, config, message):
    hub.save_pretrained(tiny[0], tmp_path / "net")
    (tmp_path / "net" / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        hub.from_pretrained(tmp_path / "net")


@pytest.mark.parametrize("arguments", ["{", "[" * 100_000], ids=["cut", "deep"])
def test_damaged_arguments_are_named(tmp_path, arguments):
    file = tmp_path / "a.safetensors"
    metadata = {"model": "pyramid", "arguments": arguments}
    save_file({"a": torch.zeros(1)}, file, metadata)
    with pytest.raises(ValueError, match=r"a\.safetensors has damaged arguments"):
        hub.save_pretrained(file, tmp_path / "folder")


def test_missing_files_and_names_are_explained(tmp_path, tiny):
    (tmp_path / "net").mkdir()
    with pytest.raises(FileNotFoundError, match="net has no config.json"):
        hub.from_pretrained(tmp_path / "net")
    with pytest.raises(ValueError, match="source must be a folder .* got 'nothing'"):
        hub.from_pretrained("nothing")
    with pytest.raises(ValueError, match="no weights named 'surf'"):
        hub.save_pretrained("flow/surf", tmp_path / "net")
    with pytest.raises(FileNotFoundError, match="no file of weights at none.safetensors"):
        hub.save_pretrained("none.safetensors", tmp_path / "net")
    with pytest.raises(ValueError, match="repository must be ORG/NAME, got 'net'"):
        hub.push_to_hub(tiny[0], "net")


def test_a_repository_round_trip(fake_hub, tiny):
    file, network = tiny
    address = hub.push_to_hub(file, "org/net", token="hf_test")
    assert address == f"{fake_hub.address}/org/net/commit/{COMMIT}"
    names = {"config.json", "model.safetensors", "README.md"}
    assert fake_hub.files.keys() == {f"org/net/{name}" for name in names}
    assert fake_hub.files["org/net/model.safetensors"] == file.read_bytes()
    assert_same(hub.from_pretrained("org/net"), network)
    requested = {path for method, path in fake_hub.log if method == "GET" and "resolve" in path}
    assert requested == {
        f"/org/net/resolve/{COMMIT}/{name}" for name in ("config.json", "model.safetensors")
    }


def test_a_large_file_is_refused_before_it_is_downloaded(fake_hub, tiny):
    hub.push_to_hub(tiny[0], "org/net", token="hf_test")
    fake_hub.sizes["model.safetensors"] = 2**40
    with pytest.raises(ValueError, match=r"org/net: model.safetensors has 1099511627776 bytes"):
        hub.from_pretrained("org/net")
    assert not [path for method, path in fake_hub.log if method == "GET" and "model.s" in path]


def test_a_missing_repository_and_a_missing_hub_are_explained(fake_hub, monkeypatch):
    with pytest.raises(FileNotFoundError, match="config.json of org/none cannot be downl"):
        hub.from_pretrained("org/none")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match="config.json of org/net cannot be downloaded"):
        hub.from_pretrained("org/net")


def test_without_huggingface_hub_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'flowmatch\[hub\]'"):
        hub.from_pretrained("org/net")
