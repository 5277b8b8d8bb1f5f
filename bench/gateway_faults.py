"""A schedule of faults against the gateway, and what became of every request; JSON lines.

    python bench/gateway_faults.py [--minutes 3] [--clients 24]

Two fake engines stand behind it. At random one is killed (-9) and started again, or stopped for a while (SIGSTOP), a
new version is promoted, keys are made and revoked, and clients leave in mid-stream. Every other request must end
whole (`[DONE]`), with an error event, or with an HTTP error that says when to come again.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
from common import emit, machine, process
from gateway import HERE, ROOT, memory_mib, wait_for

from personas.registry import Registry
from serve.engine import free_port

SECONDS = 25  # longer than the gateway's idle limit here: what takes more hangs


class Engines:
    """Two fake engines that can be hurt."""

    def __init__(self, ports: list[int]) -> None:
        self.ports = ports
        self.children: list[subprocess.Popen[bytes]] = []
        for port in ports:
            self.children.append(self._start(port))

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(HERE / "fake_engine.py"), "--port", str(port), "--pace-ms", "10"]
        return subprocess.Popen(command)

    def kill(self, number: int) -> None:
        self.children[number].kill()
        self.children[number].wait()

    def start(self, number: int) -> None:
        self.children[number] = self._start(self.ports[number])

    def close(self) -> None:
        for child in self.children:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.wait()


async def hurt(engines: Engines, home: Path, until: float, done: Counter[str]) -> None:
    """One fault after another."""
    registry = Registry(home / "gamyeon.db")
    version = 0
    while time.monotonic() < until:
        await asyncio.sleep(random.uniform(0.5, 2))
        number, kind = random.randrange(2), random.choice(["kill", "kill both", "stall", "promote"])
        done[kind] += 1
        if kind == "kill":
            engines.kill(number)
            await asyncio.sleep(random.uniform(0, 2))
            engines.start(number)
        elif kind == "kill both":
            engines.kill(0)
            engines.kill(1)
            await asyncio.sleep(random.uniform(0, 1.5))
            engines.start(0)
            engines.start(1)
        elif kind == "stall":
            os.kill(engines.children[number].pid, signal.SIGSTOP)
            await asyncio.sleep(random.uniform(0.5, 5))
            os.kill(engines.children[number].pid, signal.SIGCONT)
        else:
            version += 1
            registry.add("ironman", version)
            registry.promote("ironman", version, "bench", "")
    registry.close()


async def ask(client: httpx.AsyncClient, outcomes: Counter[str]) -> None:
    """One request, and which right or wrong end it came to."""
    stream, leaves = random.random() < 0.7, random.random() < 0.15
    body = {"model": random.choice(["ironman", "fake"]), "messages": [{"role": "user", "content": "안녕"}]}
    try:
        async with asyncio.timeout(SECONDS):
            async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": stream}) as reply:
                text = ""
                async for part in reply.aiter_text():
                    text += part
                    if leaves and len(text) > 2000:
                        outcomes["left"] += 1
                        return
        outcomes[judge(reply, text, lambda events: len(events) >= 64)] += 1
    except TimeoutError:
        outcomes["WRONG: hangs"] += 1
    except httpx.HTTPError as error:
        outcomes[f"WRONG: {type(error).__name__}"] += 1


def judge(reply: httpx.Response, text: str, is_whole: Callable[[list[str]], bool]) -> str:
    """The end of a request, in a word or two; `is_whole`: whether the events before `[DONE]` are all there."""
    if reply.status_code == 503 and "retry-after" in reply.headers:
        return "503 with Retry-After"
    if reply.status_code == 502 and "error" in json.loads(text):
        return "502"
    if reply.status_code != 200:
        return f"WRONG: {reply.status_code}"
    if "event-stream" not in reply.headers["content-type"]:
        return "whole" if json.loads(text)["usage"] else "WRONG: no usage"
    events = [event for event in text.split("\n\n") if event]
    if events[-1] == "data: [DONE]":
        return "stream" if is_whole(events[:-1]) else "WRONG: [DONE] too early"
    return "error event" if '"error"' in events[-1] else "WRONG: cut"


async def run(minutes: float, clients: int, port: int, engines: Engines, home: Path, pid: int) -> None:
    """Load and faults together, then a healthy last word."""
    until = time.monotonic() + 60 * minutes
    outcomes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    memory = [memory_mib(pid)]

    async def keep_asking(client: httpx.AsyncClient) -> None:
        while time.monotonic() < until:
            await ask(client, outcomes)

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(5)
            memory.append(memory_mib(pid))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS, limits=limits) as client:
        await asyncio.gather(
            hurt(engines, home, until, faults), watch(), *(keep_asking(client) for _ in range(clients))
        )
        await asyncio.sleep(6)
        calm: Counter[str] = Counter()
        for _ in range(50):
            await ask(client, calm)
        backends = (await client.get("/admin/status")).json()["backends"]
    descriptors = psutil.Process(pid).num_fds()
    emit(minutes=minutes, clients=clients, faults=dict(faults), outcomes=dict(outcomes.most_common()))
    emit(afterwards=dict(calm), in_flight=[b["in_flight"] for b in backends], descriptors=descriptors)
    quarter = max(1, len(memory) // 4)
    first, last = sum(memory[1 : 1 + quarter]) / quarter, sum(memory[-quarter:]) / quarter
    emit(memory_mib={"start": round(memory[0], 1), "first_quarter": round(first, 1), "last_quarter": round(last, 1)})
    wrong = sum(count for outcome, count in (outcomes + calm).items() if outcome.startswith("WRONG"))
    emit(requests=sum(outcomes.values()), wrong=wrong)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--clients", type=int, default=24)
    given = parser.parse_args()
    emit(**machine())
    random.seed(7)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engines = Engines([free_port(), free_port()])
        stack.callback(engines.close)
        port, home = free_port(), folder / "home"
        environment = {
            "GAMYEON_HOME": str(home),
            "GAMYEON_ENGINE_URL": ",".join(f"http://127.0.0.1:{p}/v1" for p in engines.ports),
            "GAMYEON_ENGINE_MODEL": "fake",
            "GAMYEON_IDLE_SECONDS": "3",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "serve.cli", "up", "--port", str(port)]
        pid = stack.enter_context(process(command, folder / "gateway.log", environment, ROOT))
        wait_for(f"http://127.0.0.1:{port}/ready")
        asyncio.run(run(given.minutes, given.clients, port, engines, home, pid))


if __name__ == "__main__":
    main()
