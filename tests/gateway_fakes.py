"""A gateway on a free port over fake engines, for tests: the server is the one that `serve up` runs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
import uvloop
from aiohttp import web
from pydantic import SecretStr

from personas.home import Home
from serve.access import KeyStore, Limits
from serve.app import make_app
from serve.engine import Engine, free_port
from serve.gateway import Gateway
from serve.http import listen, make_config
from serve.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ENGINE_KEY = "engine-secret-key"
CHAT: dict[str, Any] = {"model": "gemma-3-270m", "messages": [{"role": "user", "content": "안녕"}]}


@dataclass
class Served:
    """A running gateway."""

    client: httpx.AsyncClient
    app: Gateway
    server: uvicorn.Server
    port: int
    engine: Engine
    serving: "asyncio.Task[None]"


@asynccontextmanager
async def fake_engine(handler: Handler) -> AsyncIterator[int]:
    """An engine on a free port whose every request is answered by `handler`."""
    fake = web.Application(client_max_size=2**30)
    fake.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(fake, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def served(*handlers: Handler | int, **settings: Any) -> AsyncIterator[Served]:
    """A gateway over fake engines, given as handlers or as ports where one listens or none."""
    async with AsyncExitStack() as stack:
        ports = [h if isinstance(h, int) else await stack.enter_async_context(fake_engine(h)) for h in handlers]
        made = Settings(**settings)
        url = ",".join(f"http://127.0.0.1:{port}/v1" for port in ports)
        engine = Engine(url, SecretStr(ENGINE_KEY))
        app = make_app(made, engine)
        sock = listen("127.0.0.1", 0)
        server = uvicorn.Server(make_config(app, made))
        serving = asyncio.create_task(server.serve(sockets=[sock]))
        while not server.started:
            await asyncio.sleep(0.01)
        port = int(sock.getsockname()[1])
        try:
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
                yield Served(client, app, server, port, engine, serving)
        finally:
            server.should_exit = True
            await serving


def run(test: Callable[[], Coroutine[Any, Any, None]], seconds: float = 60) -> None:
    """Run a test on the loop that the gateway has."""
    uvloop.run(asyncio.wait_for(test(), seconds))


def make_key(home: Home, *scopes: str, **limits: Any) -> str:
    """The secret of a new key."""
    store = KeyStore(home.database)
    secret, _ = store.create("test", frozenset(scopes or ("chat",)), Limits(**limits))
    store.close()
    return secret


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def echo(request: web.Request) -> web.Response:
    """Answers with what it was asked, and with usage."""
    usage = {"prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5}
    auth = request.headers.get("authorization")
    return web.json_response({"path": request.path, "body": await request.text(), "auth": auth, "usage": usage})


async def stream_of(request: web.Request, *events: bytes, pause: float = 0) -> web.StreamResponse:
    """A stream of ready events."""
    reply = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8"})
    await reply.prepare(request)
    for event in events:
        await reply.write(event)
        await asyncio.sleep(pause)
    return reply


async def raw(port: int, data: bytes, seconds: float = 5) -> bytes:
    """What comes back for bytes written to a fresh connection, until it is closed or silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    got = b""
    try:
        async with asyncio.timeout(seconds):
            while part := await reader.read(65536):
                got += part
    except (TimeoutError, ConnectionResetError):
        pass
    writer.close()
    return got
