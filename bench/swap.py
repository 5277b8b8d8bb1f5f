"""Promotions under load on the real engine: 50 in 60 s under 8 streams, none failed, none mixed; then a rollback.

python bench/swap.py [--streams 8] [--promotions 50] [--seconds 60]   ($GAMYEON_FROM: a home whose models to copy)

Every version differs in its weights (the shipped Iron Man adapter, scaled), so a reply of two versions would show in
its `model` fields, and greedy texts tell versions apart.
"""

import argparse
import asyncio
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from common import copy_models, emit, machine, process
from safetensors.torch import load_file, save_file

from personas.adapters import CONFIG_FILE, WEIGHTS_FILE, AdapterStore
from personas.bases import prepare_base
from personas.home import Home
from personas.loader import find_persona
from personas.registry import Registry
from serve.engine import free_port
from serve.steering import HANGUL_ONLY

ASK = [
    "소코비아 협정에 대해 어떻게 생각하나요?",
    "요즘 인공지능을 어떻게 봐?",
    "면접에서 자꾸 떨어져서 힘들어",
    "넌 무서운 게 뭐야?",
]
VERSIONS = 6


def body(number: int, **more: Any) -> dict[str, Any]:
    said = [{"role": "user", "content": ASK[number % len(ASK)]}]
    return {"model": "ironman", "messages": said, "max_tokens": 24, "temperature": 0, **more}


def make_versions(home: Home) -> None:
    """Versions 1 to 6: the shipped adapter and five scaled ones; the first is live."""
    base = prepare_base(find_persona("ironman").persona.base, home)
    shipped = find_persona("ironman").shipped_adapter
    store, registry = AdapterStore(home.adapters), Registry(home.database)
    fields = {"persona": "ironman", "rank": 16, "recipe": {}, "data_sha256": "", "records": 0, "scores": {}}
    for number in range(VERSIONS):
        with tempfile.TemporaryDirectory() as folder:
            tensors = load_file(shipped / WEIGHTS_FILE)
            scaled = {k: v * (1 - 0.1 * number) if "lora_B" in k else v for k, v in tensors.items()}
            save_file(scaled, Path(folder) / WEIGHTS_FILE, metadata={"format": "pt"})
            shutil.copyfile(shipped / CONFIG_FILE, Path(folder) / CONFIG_FILE)
            version = store.publish(Path(folder), fields, base).version
        registry.add("ironman", version)
    registry.promote("ironman", 1, "bench", "start")
    registry.close()


async def stream(client: httpx.AsyncClient, number: int) -> tuple[float, set[str], str]:
    """(seconds to the first text, the models that the chunks name, the text); raises if it fails or has no end."""
    began, first, models, text, ended = time.perf_counter(), 0.0, set(), "", False
    async with client.stream("POST", "/v1/chat/completions", json=body(number, stream=True)) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            ended |= line == "data: [DONE]"
            if line.startswith("data: {"):
                event = json.loads(line[6:])
                models.add(event["model"])
                piece = event["choices"][0]["delta"].get("content") if event["choices"] else None
                if piece:
                    first = first or time.perf_counter() - began
                    text += piece
    if not ended:
        raise RuntimeError("no [DONE]")
    return first, models, text


async def load(client: httpx.AsyncClient, until: float, number: int, found: list[Any]) -> None:
    while time.perf_counter() < until:
        begun = time.perf_counter()
        try:
            first, models, _ = await stream(client, number)
            found.append((begun, first, models))
        except (httpx.HTTPError, RuntimeError, KeyError) as error:
            found.append((begun, 0.0, repr(error)))
        number += 1


async def promote(client: httpx.AsyncClient, count: int, seconds: float) -> list[float]:
    """Promote every `seconds / count`; when each was answered."""
    at = []
    for number in range(count):
        reply = await client.post("/admin/personas/ironman/promote", json={"version": 1 + (number + 1) % VERSIONS})
        reply.raise_for_status()
        at.append(time.perf_counter())
        await asyncio.sleep(seconds / count)
    return at


async def measure(url: str, streams: int, promotions: int, seconds: float) -> None:
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=None)) as client:
        alone = [await stream(client, number) for number in range(4)]
        warm: list[Any] = []
        await asyncio.gather(*(load(client, time.perf_counter() + 10, n, warm) for n in range(streams)))
        found: list[Any] = []
        until = time.perf_counter() + seconds
        results = await asyncio.gather(
            promote(client, promotions, seconds), *(load(client, until, n, found) for n in range(streams))
        )
        at = results[0]
        failed = [error for _, _, error in found if isinstance(error, str)]
        mixed = [models for _, _, models in found if not isinstance(models, str) and len(models) != 1]
        after = [min((f for f in found if f[0] >= moment), default=None, key=lambda f: f[0]) for moment in at]
        usual = statistics.median(first for _, first, _ in warm)
        firsts = [f[1] for f in after if f and not isinstance(f[2], str)]
        emit(
            what="swap under load",
            streams=streams,
            promotions=len(at),
            seconds=round(at[-1] - at[0], 1),
            replies=len(found),
            failed=len(failed),
            mixed=len(mixed),
            errors=failed[:3],
            versions=sorted({m for _, _, models in found if not isinstance(models, str) for m in models}),
            warm_first_token_ms=round(usual * 1000),
            first_token_after_promotion_ms=round(statistics.median(firsts) * 1000),
            ratio=round(statistics.median(firsts) / usual, 2),
            worst_ratio=round(max(firsts) / usual, 2),
        )
        await client.post("/admin/personas/ironman/promote", json={"version": 1})
        before = [(await stream(client, number))[2] for number in range(4)]
        await client.post("/admin/personas/ironman/promote", json={"version": VERSIONS, "why": "to go back from"})
        other = [(await stream(client, number))[2] for number in range(4)]
        moved = (await client.post("/admin/personas/ironman/rollback", json={})).json()["live"]
        back = [(await stream(client, number))[2] for number in range(4)]
        emit(what="rollback", live=moved, same_as_before=back == before, same_as_alone=back == [a[2] for a in alone],
             other_version_differs=other != before, reply=back[0])  # fmt: skip
        await canary(client)
        await steering(client)


async def steering(client: httpx.AsyncClient) -> None:
    """The guard's two means on the real engine: going on from a prefix, and an output without other scripts."""
    said = [
        {"role": "user", "content": "Answer in English: who are you?"},
        {"role": "assistant", "content": "나는 토니야."},
    ]
    go_on = {"messages": said, "continue_final_message": True, "add_generation_prompt": False}
    for name, more in (("free", {}), ("hangul only", {"structured_outputs": {"regex": HANGUL_ONLY}})):
        began = time.perf_counter()
        reply = await client.post("/v1/chat/completions", json={**body(0), **go_on, **more})
        text = reply.json()["choices"][0]["message"]["content"] if reply.status_code == 200 else reply.text
        emit(what=f"guard: {name}", seconds=round(time.perf_counter() - began, 2), status=reply.status_code, text=text)


async def canary(client: httpx.AsyncClient, users: int = 100) -> None:
    await client.post("/admin/personas/ironman/canary", json={"version": 2, "weight": 10})
    models = []
    for user in range(users):
        reply = await client.post("/v1/chat/completions", json=body(0, max_tokens=1, user=f"user{user}"))
        models.append(reply.json()["model"])
    again = await client.post("/v1/chat/completions", json=body(0, max_tokens=1, user="user7"))
    counts = {model: models.count(model) for model in sorted(set(models))}
    emit(what="canary 10%", users=users, counts=counts, sticky=again.json()["model"] == models[7])
    await client.post("/admin/personas/ironman/rollback", json={})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--promotions", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the engine is ended, too
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        copy_models(home.models)
        make_versions(home)
        port = free_port()
        command = [sys.executable, "-m", "serve.cli", "up", "--port", str(port)]
        began = time.perf_counter()
        with process(command, Path(folder) / "serve.log", {"GAMYEON_HOME": folder, "LANG": "en_US.UTF-8"}):
            url = f"http://127.0.0.1:{port}"
            while True:
                try:
                    if httpx.get(f"{url}/ready").status_code == 200:
                        break
                except httpx.TransportError:
                    pass
                if time.perf_counter() - began > 400:
                    sys.exit((Path(folder) / "serve.log").read_text())
                time.sleep(0.5)
            emit(**machine(), start_seconds=round(time.perf_counter() - began, 1))
            asyncio.run(measure(url, given.streams, given.promotions, given.seconds))


if __name__ == "__main__":
    main()
