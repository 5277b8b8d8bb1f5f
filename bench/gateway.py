"""The gateway against LiteLLM's proxy and against no gateway at all, over one fake upstream; JSON lines.

    python bench/gateway.py [--rounds 3] [--seconds 2] [--clients 1 16 64 100] [--only gamyeon-plain …] [--pace-ms 20]

`direct` is the upstream itself, `gamyeon-plain` a request to the base, `gamyeon-full` one to a persona with API key,
limits, usage and metrics, `gamyeon-guarded` that and the language guard (which sends a sentence a chunk), `litellm`
LiteLLM's proxy with one worker, no callbacks and logging off, in an environment of its own that uv makes. The targets
take turns within each round, so that a busy machine hurts all alike.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop
from common import emit, machine, process
from load import Load, load, request_bytes

from serve.engine import free_port

HERE = Path(__file__).parent
ROOT = HERE.parent
LITELLM = "litellm[proxy]==1.106.2"  # 1.109.1 does not install
LITELLM_VENV = Path(tempfile.gettempdir()) / "gamyeon-bench-litellm"
MESSAGES = [
    {"role": "user", "content": "소코비아 협정에 대해 어떻게 생각하나요?"},
    {"role": "assistant", "content": "규칙은 필요하지. 하지만 그 규칙을 누가 쓰느냐가 문제야."},
    {"role": "user", "content": "그럼 당신이라면 어떻게 쓰겠어요? 세 문장으로 답해 주세요."},
]


@dataclass
class Target:
    """A server to ask: its port, process (None: not measured) and what goes into a request."""

    name: str
    port: int
    pid: int
    model: str
    key: str = ""


def wait_for(url: str, seconds: float = 120, headers: dict[str, str] | None = None) -> None:
    """Wait until a URL answers 200."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url, headers=headers).status_code == 200:
                return
        time.sleep(0.2)
    sys.exit(f"{url} does not answer")


def litellm_program() -> Path:
    """LiteLLM's command, installed once by uv into its own environment."""
    program = LITELLM_VENV / "bin" / "litellm"
    if not program.exists():
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, LITELLM_VENV], check=True)
        subprocess.run([uv, "pip", "install", "-q", "--python", LITELLM_VENV / "bin" / "python", LITELLM], check=True)
    return program


@contextlib.contextmanager
def litellm(folder: Path, upstream: int) -> Iterator[Target]:
    """LiteLLM's proxy with one worker and everything optional off."""
    port = free_port()
    config = folder / "litellm.yaml"
    model = {
        "model_name": "fake",
        "litellm_params": {"model": "openai/fake", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"},
    }
    settings = {"callbacks": [], "telemetry": False, "drop_params": True}
    config.write_text(json.dumps({"model_list": [model], "litellm_settings": settings}))  # JSON is YAML
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONPATH": ""}
    environment["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # without keys it is at its fastest
    command = [str(litellm_program()), "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    with process([*command, "--num_workers", "1"], folder / "litellm.log", environment, folder) as pid:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness")
        yield Target("litellm", port, pid, "fake")


@contextlib.contextmanager
def gamyeon(folder: Path, upstream: int, name: str) -> Iterator[Target]:
    """Our gateway as `serve up` starts it, over an engine elsewhere."""
    full = name != "gamyeon-plain"
    port, home = free_port(), folder / f"home-{name}"
    environment = {
        "GAMYEON_HOME": str(home),
        "GAMYEON_ENGINE_URL": f"http://127.0.0.1:{upstream}/v1",
        "GAMYEON_ENGINE_MODEL": "fake",
        "GAMYEON_PERSONAS": str(personas(folder / f"personas-{name}", guard=name == "gamyeon-guarded")),
        "PYTHONPATH": str(ROOT),
    }
    key = make_key(environment) if full else ""
    command = [sys.executable, "-m", "serve.cli", "up", "--port", str(port)]
    with process(command, folder / f"{name}.log", environment, ROOT) as pid:
        wait_for(f"http://127.0.0.1:{port}/ready")
        yield Target(name, port, pid, "ironman" if full else "fake", key)


def personas(root: Path, guard: bool) -> Path:
    """Iron Man alone, with the language guard or without it."""
    if not root.exists():
        (root / "ironman").mkdir(parents=True)
        text = (ROOT / "personas" / "ironman" / "persona.yaml").read_text(encoding="utf-8")
        text += "guard: {language: ko}\n" * guard
        (root / "ironman" / "persona.yaml").write_text(text, encoding="utf-8")
    return root


def make_key(environment: dict[str, str]) -> str:
    """A key with every kind of limit, each far above what the load reaches."""
    limits = ["--requests-per-minute", "100000000", "--tokens-per-minute", "100000000000", "--concurrency", "1000"]
    made = subprocess.run(
        [sys.executable, "-m", "serve.cli", "keys", "create", "bench", *limits, "--persona", "ironman", "--json"],
        env={**os.environ, **environment}, cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return str(json.loads(made.stdout)["key"])


def family(pid: int) -> list[psutil.Process]:
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its children so far."""
    return sum(sum(p.cpu_times()[:2]) for p in family(pid))


def memory_mib(pid: int) -> float:
    return sum(float(p.memory_info().rss) for p in family(pid)) / 2**20


def share(values: list[float], part: float) -> float:
    """A quantile in milliseconds."""
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, int(part * len(ordered)))], 3) if ordered else 0.0


def measure(target: Target, stream: bool, clients: int, seconds: float) -> dict[str, Any]:
    """One run against one target."""
    body: dict[str, Any] = {"model": target.model, "messages": MESSAGES, "temperature": 0.7}
    if stream:
        body["stream"] = True
    request = request_bytes("127.0.0.1", json.dumps(body, ensure_ascii=False).encode(), target.key)
    before = cpu_seconds(target.pid)
    seen: Load = asyncio.run(load(target.port, request, clients, seconds))
    used = cpu_seconds(target.pid) - before
    count = len(seen.whole)
    row = {
        "target": target.name,
        "mode": "stream" if stream else "whole",
        "clients": clients,
        "requests_s": round(count / seen.seconds, 1),
        "p50_ms": share(seen.whole, 0.5),
        "p95_ms": share(seen.whole, 0.95),
        "p99_ms": share(seen.whole, 0.99),
        "cpu_ms_request": round(1000 * used / max(1, count), 3),
        "memory_mib": round(memory_mib(target.pid), 1),
        "failed": seen.failed,
    }
    if stream:
        row |= {
            "chunks_s": round(seen.chunks / seen.seconds),
            "first_p50_ms": share(seen.first, 0.5),
            "first_p95_ms": share(seen.first, 0.95),
            "cpu_us_chunk": round(1e6 * used / max(1, seen.chunks), 1),
        }
    return row


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The median of each figure over the rounds."""
    fixed = ("target", "mode", "clients")
    made = {key: rows[0][key] for key in fixed}
    for key in rows[0]:
        if key not in fixed:
            made[key] = round(statistics.median(row[key] for row in rows), 3)
    return made


def compare(rows: dict[tuple[str, str, int], dict[str, Any]]) -> None:
    """Ratios to LiteLLM, and what each gateway adds to the upstream's own time."""
    for (name, mode, clients), row in rows.items():
        direct, other = rows.get(("direct", mode, clients)), rows.get(("litellm", mode, clients))
        if name == "direct" or not direct:
            continue
        time_key = "first_p50_ms" if mode == "stream" else "p50_ms"
        made = {"added_p50_ms": round(row[time_key] - direct[time_key], 3)}
        for part in ("p95_ms", "p99_ms") if mode == "whole" else ("first_p95_ms",):
            made[f"added_{part}"] = round(row[part] - direct[part], 3)
        if other and name != "litellm":
            rate = "chunks_s" if mode == "stream" else "requests_s"
            made["times_litellm"] = round(row[rate] / other[rate], 1)
            made["added_of_litellm"] = round(made["added_p50_ms"] / (other[time_key] - direct[time_key]), 4)
            made["memory_of_litellm"] = round(row["memory_mib"] / other["memory_mib"], 3)
        emit(compare=name, mode=mode, clients=clients, **made)


def rhythm(target: Target, pace_ms: float) -> None:
    """Whether a stream keeps the upstream's rhythm: the gaps between events as a client sees them."""
    body = {"model": target.model, "messages": MESSAGES, "stream": True}
    request = request_bytes("127.0.0.1", json.dumps(body, ensure_ascii=False).encode(), target.key)
    seen = asyncio.run(load(target.port, request, 4, 3 * 64 * pace_ms / 1000))
    gaps = {f"gap_p{int(part * 100)}_ms": share(seen.gaps, part) for part in (0.05, 0.5, 0.95)}
    emit(rhythm=target.name, pace_ms=pace_ms, events=seen.chunks, reads=len(seen.gaps) + len(seen.first), **gaps)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 16, 64, 100])
    parser.add_argument(
        "--only", nargs="+", default=["direct", "gamyeon-plain", "gamyeon-full", "gamyeon-guarded", "litellm"]
    )
    parser.add_argument("--pace-ms", type=float, default=20, help="rhythm of the last part; 0: leave it out")
    given = parser.parse_args()
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    emit(**machine())
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream, paced = free_port(), free_port()
        fake = [sys.executable, str(HERE / "fake_engine.py"), "--port"]
        pid = stack.enter_context(process([*fake, str(upstream)], folder / "fake.log", {}))
        pace = ["--pace-ms", str(given.pace_ms)]
        stack.enter_context(process([*fake, str(paced), *pace], folder / "paced.log", {}))
        makers = {
            "direct": lambda port, pid=pid: contextlib.nullcontext(Target("direct", port, pid, "fake")),
            "gamyeon-plain": lambda port: gamyeon(folder, port, "gamyeon-plain"),
            "gamyeon-full": lambda port: gamyeon(folder, port, "gamyeon-full"),
            "gamyeon-guarded": lambda port: gamyeon(folder, port, "gamyeon-guarded"),
            "litellm": lambda port: litellm(folder, port),
        }
        targets = [stack.enter_context(makers[name](upstream)) for name in given.only]
        table(targets, given.rounds, given.seconds, given.clients)
        for name in given.only if given.pace_ms else []:
            with makers[name](paced) as target:
                rhythm(target, given.pace_ms)


def table(targets: list[Target], rounds: int, seconds: float, clients: list[int]) -> None:
    """Every target in turn, round by round; the medians and the comparison."""
    seen: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for target in targets:  # warm
        measure(target, False, 4, 1)
        measure(target, True, 4, 1)
    for number in range(rounds):
        for stream in (False, True):
            for count in clients:
                for target in targets:
                    row = measure(target, stream, count, seconds)
                    seen.setdefault((target.name, row["mode"], count), []).append(row)
                    emit(round=number + 1, **row)
    rows = {key: middle(found) for key, found in seen.items()}
    for row in rows.values():
        emit(median=True, **row)
    compare(rows)


if __name__ == "__main__":
    main()
