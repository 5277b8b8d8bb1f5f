"""Isolation for every test, and the slow things once a run: the prepared base and one gateway over the real vLLM."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from personas.bases import Base, prepare_base
from personas.home import Home
from personas.schema import EMBEDDED_BASE

pytest_plugins = ["fixtures_tiny", "fixtures_rag"]

ISOLATED = {"HF_HUB_OFFLINE": "1", "LANG": "en_US.UTF-8", "GRADIO_ANALYTICS_ENABLED": "False"}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A state folder of its own for every test."""
    for name in [name for name in os.environ if name.startswith("GAMYEON_")]:
        monkeypatch.delenv(name)
    for name, value in {**ISOLATED, "GAMYEON_HOME": str(tmp_path / "home")}.items():
        monkeypatch.setenv(name, value)
    return Home.from_env()


@dataclass
class Running:
    """A `serve up` that answers at `url`, with its state folder and its process."""

    url: str
    home: Home
    process: subprocess.Popen[str]
    output: Path

    def wait_ready(self, seconds: float) -> None:
        """Wait until the engine answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.output.read_text()
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        log = self.home.logs / "engine.log"
        raise TimeoutError(f"{self.output.read_text()}\n{log.read_text()[-3000:] if log.exists() else ''}")


def line_with(output: Path, mark: str, process: subprocess.Popen[str], seconds: float = 60) -> str:
    """Wait for a line of a process's output and return what follows the mark."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for line in output.read_text().splitlines():
            if mark in line:
                return line.split(mark, 1)[1].strip()
        assert process.poll() is None, output.read_text()
        time.sleep(0.1)
    raise TimeoutError(output.read_text())


def descendants(pid: int) -> list[int]:
    """Process ids below a process, from /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [p for child in children for p in descendants(int(child))]


@pytest.fixture(scope="session")
def session_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return Home(tmp_path_factory.mktemp("session") / "home")


@pytest.fixture(scope="session")
def embedded(session_home: Home) -> Base:
    """The embedded base model, prepared once a run."""
    return prepare_base(EMBEDDED_BASE, session_home)


@pytest.fixture(scope="session")
def running(session_home: Home, embedded: Base, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Engine, gateway and page as `make chat` starts them, on free ports; the real vLLM, once a run."""
    output = tmp_path_factory.mktemp("serve") / "output.txt"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GAMYEON_")}
    environment |= {**ISOLATED, "GAMYEON_HOME": str(session_home.root), "PYTHONUNBUFFERED": "1"}
    with output.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.cli", "up", "--page", "--port", "0", "--page-port", "0"],
            stdout=file, stderr=subprocess.STDOUT, env=environment, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        url = line_with(output, "API", process).removesuffix("/v1")
        server = Running(url, session_home, process, output)
        server.wait_ready(400)
        yield server
        family = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 0, output.read_text()
        time.sleep(1)
        assert not [pid for pid in family if Path(f"/proc/{pid}").exists()], "Ctrl-C left a process"
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(40)
