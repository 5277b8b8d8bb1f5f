"""A hub id, from a small server that speaks as much of the hub's protocol as `snapshot_download` asks for."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from personas.bases import find_base
from personas.home import Home

SHA = "0123456789abcdef0123456789abcdef01234567"
REPO = "stark/tiny"


@pytest.fixture(scope="module")
def hub(tiny_source: Path) -> Iterator[str]:
    """The address of a hub that holds the tiny model as `stark/tiny` and nothing else."""
    files = {path.name: path.read_bytes() for path in tiny_source.iterdir()}
    files |= {"pickled.bin": b"never asked for", "README.md": b"# tiny"}
    blobs = {name: hashlib.sha1(content).hexdigest() for name, content in files.items()}
    tree = [{"type": "file", "path": n, "size": len(c), "oid": blobs[n]} for n, c in files.items()]
    info = {"id": REPO, "sha": SHA, "siblings": [{"rfilename": name} for name in files]}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            resolve = f"/{REPO}/resolve/{SHA}/"
            if path in (f"/api/models/{REPO}", f"/api/models/{REPO}/revision/main"):
                self.answer(200, json.dumps(info).encode(), {"Content-Type": "application/json"})
            elif path == f"/api/models/{REPO}/tree/{SHA}":
                self.answer(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            elif path.startswith(resolve) and (name := path.removeprefix(resolve)) in files:
                self.answer(200, files[name], {"ETag": f'"{blobs[name]}"', "X-Repo-Commit": SHA})
            else:
                self.answer(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"})

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def prepare(repo: str, hub: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "hf_secret0value",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "personas.cli", "prepare", repo]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=180, check=False)


@pytest.mark.timeout(240)
def test_hub_id_is_prepared(hub: str, home: Home, tmp_path: Path) -> None:
    done = prepare(REPO, hub, tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    base = find_base(REPO, home)
    assert base is not None
    assert base.name == "stark--tiny"
    assert base.fingerprint[:12] in done.stdout
    weights = base.path / "model.safetensors"
    assert weights.is_symlink()
    assert (tmp_path / "cache") in weights.resolve().parents
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name in ("pickled.bin", "README.md")]
    assert "hf_secret0value" not in done.stdout + done.stderr
    assert not any(b"hf_secret0value" in path.read_bytes() for path in base.path.iterdir())


@pytest.mark.timeout(240)
def test_missing_repository_is_a_clear_error(hub: str, home: Home, tmp_path: Path) -> None:
    done = prepare("stark/nothing", hub, tmp_path / "cache")
    assert done.returncode == 1
    assert "error: stark/nothing: the hub answered 404" in done.stderr
    assert "→ check the name" in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf_secret0value" not in done.stdout + done.stderr
    assert find_base("stark/nothing", home) is None
