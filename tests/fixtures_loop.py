"""What the tests of the loop share: a gateway over a fake engine, and versions in its store."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from aiohttp import web
from fixtures_tiny import hand_base, make_adapter, manifest_fields
from pydantic import SecretStr

from personas.adapters import AdapterStore
from personas.home import Home
from personas.registry import Registry
from serve.app import make_app
from serve.engine import Engine, free_port
from serve.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def gateway_over(handler: Handler, **settings: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway on a free port over a fake engine that answers everything by `handler`."""
    fake = web.Application()
    fake.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(fake)
    await runner.setup()
    engine_port, port = free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", engine_port).start()
    engine = Engine(f"http://127.0.0.1:{engine_port}/v1", SecretStr("secret"))
    server = uvicorn.Server(uvicorn.Config(make_app(Settings(**settings), engine), port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await serving
        await runner.cleanup()


def run(test: Callable[[], Any]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


def publish_versions(home: Home, tmp_path: Path, count: int, persona: str = "ironman") -> Registry:
    """Versions 1 to `count` of a persona, the first live."""
    registry, store = Registry(home.database), AdapterStore(home.adapters)
    for number in range(1, count + 1):
        source = make_adapter(tmp_path / f"adapter{number}", float(number))
        store.publish(source, manifest_fields(persona), hand_base())
        registry.add(persona, number)
    registry.promote(persona, 1, "test", "first")
    return registry


def sse(*events: dict[str, Any]) -> bytes:
    """Events as the engine streams them, with `[DONE]`."""
    lines = [json.dumps(event, ensure_ascii=False, separators=(",", ":")) for event in events]
    return "".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]).encode()


def chunk(
    text: str | None = None, finish: str | None = None, answer: str = "chatcmpl-1", **more: Any
) -> dict[str, Any]:
    """One chunk of a streamed chat completion, as vLLM makes it."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {"id": answer, "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
