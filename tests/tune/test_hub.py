"""Publishing, against a small server that speaks the hub's upload protocol: create, preupload, LFS, commit."""

import base64
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from fixtures_families import make_family, make_lora

from personas.adapters import AdapterStore
from personas.bases import prepare_base
from personas.home import Home
from tune.blend import Mix, blend_adapters, store_blend
from tune.hub import HubError, guess_licence, hub_id, of_folder
from tune.locate import find_adapter

TOKEN = "hf_" + "s3cr3tS3cr3t" * 3
REPO = "stark/mask"


@dataclass
class Hub:
    """What the server was sent, and how it is to behave."""

    url: str = ""
    private: bool | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    busy: dict[str, int] = field(default_factory=dict)
    refuse: int = 0

    def take(self, line: dict[str, Any]) -> None:
        """One operation of a commit."""
        value = line["value"]
        if line["key"] == "file":
            self.files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            self.files[value["path"]] = self.blobs[value["oid"]]

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status and JSON of one request."""
        if self.refuse:
            return self.refuse, {"error": "You don't have the rights"}
        if next((part for part, left in self.busy.items() if part in path and left), None):
            part = next(part for part in self.busy if part in path)
            self.busy[part] -= 1
            return 503, {"error": "busy"}
        if path.startswith("/blob/"):
            assert hashlib.sha256(body).hexdigest() == path.removeprefix("/blob/")
            self.blobs[path.removeprefix("/blob/")] = body
            return 200, {}
        sent = json.loads(body) if body and "/commit/" not in path else {}
        if path == "/api/repos/create":
            exists, self.private = self.private is not None, self._private(sent)
            url = f"{self.url}/{REPO}"
            return (409, {"error": "exists", "url": url}) if exists else (200, {"url": url, "id": REPO})
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if "/preupload/" in path:
            modes = {True: "lfs", False: "regular"}
            asked = [(f["path"], modes[f["path"].endswith(".safetensors")]) for f in sent["files"]]
            return 200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in asked]}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self._object(o) for o in sent["objects"]]}
        if "/commit/" in path:
            for line in body.splitlines():
                self.take(json.loads(line))
            return 200, {"success": True, "commitUrl": f"{self.url}/{REPO}/commit/abc", "commitOid": "abc"}
        if path.startswith(f"/api/models/{REPO}"):
            return 200, {"id": REPO, "sha": "abc", "private": self.private, "siblings": []}
        return 404, {"error": f"{method} {path}"}

    def _private(self, sent: dict[str, Any]) -> bool:
        return (
            self.private
            if self.private is not None
            else sent.get("visibility") == "private" or sent.get("private", False)
        )

    def _object(self, asked: dict[str, Any]) -> dict[str, Any]:
        have = asked["oid"] in self.blobs
        return {**asked, **({} if have else {"actions": {"upload": {"href": f"{self.url}/blob/{asked['oid']}"}}})}


@pytest.fixture
def hub() -> Iterator[Hub]:
    state = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.split("?")[0]
            state.calls.append(f"{self.command} {path}")
            if path.startswith("/api/"):
                state.tokens.add(self.headers.get("Authorization", ""))
            status, value = state.reply(self.command, path, body)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def publish(name: str, hub: Hub, cache: Path, *more: str, token: str = TOKEN) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
    }  # fmt: skip
    command = [sys.executable, "-m", "tune.cli", "publish", name, "--repo", REPO, *more]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert TOKEN not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.fixture
def stored(home: Home, tmp_path: Path) -> str:
    """A stored version of a persona on a hub base, as `ironman@v1`."""
    base = prepare_base(str(make_family(tmp_path / "base", "llama")), home)
    made = find_adapter(str(make_lora(tmp_path / "lora", base.path)), home)
    recipe = blend_adapters([made, made], base, Mix("svd", [0.5, 0.5]), tmp_path / "blend", lambda _: None)
    return store_blend(tmp_path / "blend", "ironman", [made, made], recipe, base, home, live=True).id


@pytest.mark.timeout(240)
def test_adapter_goes_up_private_with_its_card(stored: str, home: Home, hub: Hub, tmp_path: Path) -> None:
    folder = AdapterStore(home.adapters).folder("ironman", 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "scores": {"loss_ratio": 0.8187}}))
    (folder / "optimizer.pt").write_bytes(b"pickle")
    hub.busy = {"/api/repos/create": 1, "/commit/": 1}
    done = publish(stored, hub, tmp_path / "cache", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    assert f"{hub.url}/{REPO}/commit/abc" in done.stdout
    assert "again in 1 s" in done.stdout
    assert "not uploaded: optimizer.pt" in done.stdout
    assert hub.private is True
    assert hub.tokens - {""} == {f"Bearer {TOKEN}"}
    assert sorted(hub.files) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "manifest.json",
    ]  # fmt: skip
    assert hub.files["adapter_model.safetensors"] == (folder / "adapter_model.safetensors").read_bytes()
    assert hashlib.sha256(hub.files["adapter_config.json"]).hexdigest() in hub.files["manifest.json"].decode()
    card = hub.files["README.md"].decode()
    data = yaml.safe_load(card.split("---")[1])
    assert (data["language"], data["license"], data["library_name"]) == ("ko", "apache-2.0", "peft")
    assert data["base_model_relation"] == "adapter"
    assert data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.8187
    assert manifest["base"]["weights_sha256"] in card
    assert "당신은 아이언맨 토니 스타크" in card
    assert not any(str(tmp_path).encode() in content or TOKEN.encode() in content for content in hub.files.values())
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]


@pytest.mark.timeout(240)
def test_folder_goes_up_and_a_second_time_sends_no_weights(home: Home, hub: Hub, tmp_path: Path) -> None:
    model = make_family(tmp_path / "model", "llama")
    (model / "trainer_state.json").write_text('{"best_model_checkpoint": "/home/me"}')
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    assert publish(str(model), hub, tmp_path / "cache", "--public").returncode == 0
    assert hub.private is False
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md"} <= hub.files.keys()
    assert not {"trainer_state.json", "pytorch_model.bin"} & hub.files.keys()
    hub.calls.clear()
    assert publish(str(model), hub, tmp_path / "cache", "--public").returncode == 0
    assert not [call for call in hub.calls if call.startswith("PUT")]


@pytest.mark.timeout(400)
def test_refusals_send_nothing(home: Home, hub: Hub, tmp_path: Path) -> None:
    model = make_family(tmp_path / "model", "llama")
    cache = tmp_path / "cache"
    (model / "README.md").write_text("mine")

    hub.private = False
    done = publish(str(model), hub, cache)
    assert done.returncode == 1
    assert f"error: {REPO} is public already" in done.stderr

    hub.refuse = 403
    done = publish(str(model), hub, cache)
    assert "the hub refused: 403" in done.stderr
    assert "→ the token needs the right to write" in done.stderr

    done = publish(str(model), hub, cache, token="")
    assert "→ hf auth login" in done.stderr

    (model / "config.json").write_text((model / "config.json").read_text().replace("{", '{"x": "' + TOKEN + '",', 1))
    hub.refuse, hub.private = 0, None
    done = publish(str(model), hub, cache)
    assert "error: config.json holds a token: nothing was sent" in done.stderr
    assert hub.files == {}
    assert (model / "README.md").read_text() == "mine"


def test_bases_are_named_as_the_hub_knows_them(tmp_path: Path) -> None:
    assert hub_id("embedded:gemma-3-270m") == "google/gemma-3-270m"
    known = [
        "google/gemma-3-270m",
        "meta-llama/Llama-2-13b-hf",
        "unsloth/Meta-Llama-3.1-8B",
        "upstage/SOLAR-10.7B-v1.0",
    ]
    assert [guess_licence(base) for base in known] == ["gemma", "llama2", "llama3.1", "other"]
    with pytest.raises(HubError, match="neither a model nor an adapter"):
        of_folder(tmp_path)
