"""A schedule of faults against the real engine, and what became of every request; JSON lines.

    python bench/engine_faults.py [--minutes 30] [--clients 4]      ($GAMYEON_FROM: a home whose models to copy)

While clients stream from six versions of Iron Man (some leave in mid-stream), in turns a process of vLLM is killed
(-9), all of vLLM is stopped for a while (SIGSTOP), and versions are promoted. Every request must end whole
(`[DONE]`), with an error event, or with an HTTP error that says when to come again. A recovery is the time from a kill
to the engine's next answer; it is held against the cold start of the same run.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import copy_models, emit, machine, process
from gateway import memory_mib
from gateway_faults import judge
from swap import VERSIONS, body, make_versions

from personas.home import Home
from serve.engine import free_port

HANGS = 120.0  # seconds: a request that takes longer has no outcome


def engine_processes(gateway: int) -> list[psutil.Process]:
    """vLLM's processes below a gateway."""
    below = psutil.Process(gateway).children(recursive=True)
    return [child for child in below if "vllm" in " ".join(child.cmdline() or [child.name()]).lower()]


async def wait_ready(client: httpx.AsyncClient, state: bool = True) -> None:
    while True:
        with contextlib.suppress(httpx.HTTPError):
            if ((await client.get("/ready")).status_code == 200) == state:
                return
        await asyncio.sleep(0.1)


async def hurt(client: httpx.AsyncClient, gateway: int, until: float, done: Counter[str], healed: list[float]) -> None:
    """Faults in turns until the time is over; the last one is healed, too."""
    turn = 0
    while time.monotonic() < until:
        kind = ("promote", "kill", "promote", "stall")[turn % 4]
        turn += 1
        done[kind] += 1
        if kind == "promote":
            await client.post("/admin/personas/ironman/promote", json={"version": 1 + turn % VERSIONS})
        elif kind == "stall":
            held = engine_processes(gateway)
            for child in held:
                child.suspend()
            await asyncio.sleep(random.uniform(3, 12))
            for child in held:
                child.resume()
        else:
            began = time.monotonic()
            random.choice(engine_processes(gateway)).kill()
            await wait_ready(client, False)
            await wait_ready(client)
            healed.append(time.monotonic() - began)
        await asyncio.sleep(random.uniform(5, 20))


async def ask(client: httpx.AsyncClient, number: int, outcomes: Counter[str]) -> None:
    leaves, asked = random.random() < 0.15, body(number, stream=random.random() < 0.7)
    try:
        async with asyncio.timeout(HANGS), client.stream("POST", "/v1/chat/completions", json=asked) as reply:
            text = ""
            async for part in reply.aiter_text():
                text += part
                if leaves and len(text) > 600:
                    outcomes["left"] += 1
                    return
        outcomes[judge(reply, text, has_an_end)] += 1
        if reply.status_code != 200:
            await asyncio.sleep(min(2, float(reply.headers.get("retry-after", 1))))
    except TimeoutError:
        outcomes["WRONG: hangs"] += 1
    except httpx.HTTPError as error:
        outcomes[f"WRONG: {type(error).__name__}"] += 1


def has_an_end(events: list[str]) -> bool:
    """Whether a stream says why it ended, and no letter was cut."""
    said = [json.loads(event[6:]).get("choices") for event in events if event.startswith("data: {")]
    ended = None not in said and any(choices and choices[0].get("finish_reason") for choices in said if choices)
    return ended and "\ufffd" not in "".join(events)


async def run(url: str, gateway: int, minutes: float, clients: int, cold: float) -> None:
    until = time.monotonic() + 60 * minutes
    outcomes, faults, calm = Counter[str](), Counter[str](), Counter[str]()
    healed: list[float] = []
    memory = [memory_mib(gateway)]

    async def keep_asking(client: httpx.AsyncClient, first: int) -> None:
        number = first
        while time.monotonic() < until:
            await ask(client, number, outcomes)
            number += 1

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(5)
            memory.append(memory_mib(gateway))

    async with httpx.AsyncClient(base_url=url, timeout=HANGS) as client:
        await asyncio.gather(
            hurt(client, gateway, until, faults, healed), watch(), *(keep_asking(client, n) for n in range(clients))
        )
        await wait_ready(client)
        for number in range(12):
            await ask(client, number, calm)
    emit(minutes=minutes, clients=clients, faults=dict(faults), outcomes=dict(outcomes.most_common()))
    report: dict[str, Any] = {"cold_start_s": round(cold, 1), "recoveries_s": [round(s, 1) for s in healed]}
    if healed:
        report |= {"median_ratio": round(statistics.median(healed) / cold, 2), "worst": round(max(healed) / cold, 2)}
    emit(**report, afterwards=dict(calm), descriptors=psutil.Process(gateway).num_fds())
    quarter = max(1, len(memory) // 4)
    first, last = statistics.mean(memory[1 : 1 + quarter]), statistics.mean(memory[-quarter:])
    emit(gateway_memory_mib={"first_quarter": round(first, 1), "last_quarter": round(last, 1)})
    wrong = sum(count for outcome, count in (outcomes + calm).items() if outcome.startswith("WRONG"))
    emit(requests=sum(outcomes.values()), wrong=wrong)


async def measure(port: int, gateway: int, given: argparse.Namespace) -> None:
    url, began = f"http://127.0.0.1:{port}", time.monotonic()
    emit(gateway=url)
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(400):
        await wait_ready(client)
    await run(url, gateway, given.minutes, given.clients, time.monotonic() - began)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=4)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine is ended, too
    random.seed(7)
    emit(**machine())
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        copy_models(home.models)
        make_versions(home)
        port = free_port()
        command = [sys.executable, "-m", "serve.cli", "up", "--port", str(port)]
        with process(command, Path(folder) / "serve.log", {"GAMYEON_HOME": folder, "LANG": "en_US.UTF-8"}) as gateway:
            asyncio.run(measure(port, gateway, given))


if __name__ == "__main__":
    main()
