"""The gateway in front of a fake engine: faults and timings that the real vLLM cannot give on demand."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from aiohttp import web
from pydantic import SecretStr

from personas.home import Home
from personas.registry import Registry
from serve.app import make_app
from serve.engine import Engine, Status, free_port
from serve.settings import Settings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
KEY = "engine-secret-key"
CHAT = {"model": "gemma-3-270m", "messages": [{"role": "user", "content": "안녕"}]}


@asynccontextmanager
async def gateway_over(handler: Handler, **settings: Any) -> AsyncIterator[tuple[httpx.AsyncClient, Engine]]:
    """A gateway on a free port over a fake engine whose every POST is answered by `handler`."""
    fake = web.Application()
    fake.router.add_post("/{path:.*}", handler)
    runner = web.AppRunner(fake)
    await runner.setup()
    engine_port, port = free_port(), free_port()
    await web.TCPSite(runner, "127.0.0.1", engine_port).start()
    engine = Engine(f"http://127.0.0.1:{engine_port}/v1", SecretStr(KEY))
    server = uvicorn.Server(uvicorn.Config(make_app(Settings(**settings), engine), port=port, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client, engine
    finally:
        server.should_exit = True
        await serving
        await runner.cleanup()


async def echo(request: web.Request) -> web.Response:
    return web.json_response(
        {"path": request.path, "body": await request.text(), "auth": request.headers["authorization"]}
    )


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))  # type: ignore[arg-type]


def test_a_request_to_the_base_passes_byte_for_byte() -> None:
    async def test() -> None:
        body = '{"model" :"gemma-3-270m",  "messages":[], "x":1.50}'
        async with gateway_over(echo) as (client, _):
            got = (await client.post("/v1/chat/completions", content=body)).json()
        assert got == {"path": "/v1/chat/completions", "body": body, "auth": f"Bearer {KEY}"}

    run(test)


def test_a_request_to_a_persona_carries_its_prompt() -> None:
    async def test() -> None:
        async with gateway_over(echo) as (client, _):
            got = json.loads(
                (await client.post("/v1/chat/completions", json={**CHAT, "model": "ironman"})).json()["body"]
            )
        assert got["model"] == "gemma-3-270m"  # no version is live yet
        assert got["messages"][0]["content"].startswith("당신은 아이언맨 토니 스타크")
        assert got["temperature"] == 0.3

    run(test)


def test_an_engine_elsewhere_gets_its_own_model_name_and_only_openai_fields() -> None:
    async def test() -> None:
        async with gateway_over(echo, engine_url="http://elsewhere/v1", engine_model="gpt-4o") as (client, _):
            got = json.loads(
                (await client.post("/v1/chat/completions", json={**CHAT, "model": "ironman"})).json()["body"]
            )
            names = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
        assert got["model"] == "gpt-4o"
        assert set(got) == {"model", "messages", "temperature", "top_p", "frequency_penalty", "max_tokens"}
        assert "gpt-4o" in names

    run(test)


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ('{"model":', 400, "bad_request"),
        ("[]", 400, "bad_request"),
        ("[" * 100_000, 400, "bad_request"),
        ("{}", 400, "bad_request"),
        ('{"model": 3}', 400, "bad_request"),
        ('{"model": "nobody"}', 404, "model_not_found"),
        ('{"model": "../adapters/ironman@v1"}', 404, "model_not_found"),
        ('{"model": "ironman@v7"}', 404, "model_not_found"),
        ('{"model": "ironman", "messages": 3}', 400, "bad_request"),
        ('{"model": "gemma-3-270m", "pad": "' + "x" * 5000 + '"}', 413, "body_too_large"),
    ],
)  # fmt: skip
def test_bad_requests_get_openai_errors(body: str, status: int, code: str) -> None:
    async def test() -> None:
        limit = 4096 if status == 413 else 4_000_000
        async with gateway_over(echo, max_body_bytes=limit) as (client, _):
            reply = await client.post("/v1/chat/completions", content=body)
        assert reply.status_code == status
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.json()["error"]["code"] == code

    run(test)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/completions", 405),
        ("POST", "/v1/load_lora_adapter", 404),
        ("POST", "/tokenize", 404),
    ],
)
def test_other_routes_are_not_forwarded(method: str, path: str, status: int) -> None:
    async def test() -> None:
        async with gateway_over(echo) as (client, _):
            reply = await client.request(method, path)
        assert reply.status_code == status
        assert "message" in reply.json()["error"]

    run(test)


def test_engine_not_ready_says_when_to_ask_again() -> None:
    async def test() -> None:
        async with gateway_over(echo) as (client, engine):
            engine.status = Status("starting", 45, "loading", 0)
            reply = await client.post("/v1/chat/completions", json=CHAT)
            ready = await client.get("/ready")
            alive = await client.get("/health")
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "5")
        assert "loading" in reply.json()["error"]["message"]
        assert (ready.status_code, ready.json()["percent"], alive.status_code) == (503, 45, 200)

    run(test)


def test_engine_death_in_mid_stream_is_an_error_event_not_a_false_done() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write('data: {"n": 1}\n\ndata: {"half": "안'.encode()[:-1])  # dies within an event and a letter
        await asyncio.sleep(0.1)
        assert request.transport
        request.transport.abort()
        return reply

    async def test() -> None:
        async with gateway_over(handler) as (client, _):
            text = (await client.post("/v1/chat/completions", json=CHAT)).text
        events = [event for event in text.split("\n\n") if event]
        assert events[0] == 'data: {"n": 1}'
        assert json.loads(events[1].removeprefix("data: "))["error"]["code"] == "engine_lost"
        assert len(events) == 2

    run(test)


def test_engine_death_before_the_answer_is_502() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    async def test() -> None:
        async with gateway_over(handler) as (client, _):
            reply = await client.post("/v1/chat/completions", json=CHAT)
        assert (reply.status_code, reply.json()["error"]["code"]) == (502, "engine_lost")
        assert KEY not in reply.text

    run(test)


def test_engine_errors_come_through_unchanged() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "too long"}}, status=400)

    async def test() -> None:
        async with gateway_over(handler) as (client, _):
            reply = await client.post("/v1/completions", json={"model": "gemma-3-270m", "prompt": "x"})
        assert (reply.status_code, reply.json()) == (400, {"error": {"message": "too long"}})

    run(test)


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_goes_away_ends_the_request_at_the_engine(streaming: bool) -> None:
    ended = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream" if streaming else "application/json"})
        await reply.prepare(request)
        try:
            while True:
                await reply.write(b'data: {"n": 1}\n\n')
                await asyncio.sleep(0.02)
        except (ConnectionResetError, asyncio.CancelledError):
            ended.set()
            raise

    async def test() -> None:
        async with gateway_over(handler) as (client, _):
            with contextlib.suppress(httpx.TimeoutException):  # a whole reply never comes; a stream is left at once
                async with client.stream("POST", "/v1/chat/completions", json=CHAT, timeout=1) as reply:
                    await anext(reply.aiter_bytes())
            await asyncio.wait_for(ended.wait(), 5)

    run(test)


def test_chunks_pass_as_they_come() -> None:
    """The second event is held back until the client has the first one: a gateway that gathers would hang here."""
    seen = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b"data: 1\n\n")
        await asyncio.wait_for(seen.wait(), 10)
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def test() -> None:
        async with (
            gateway_over(handler) as (client, _),
            client.stream("POST", "/v1/chat/completions", json=CHAT) as reply,
        ):
            chunks = []
            async for chunk in reply.aiter_bytes():
                chunks.append(chunk)
                seen.set()
        assert b"".join(chunks) == b"data: 1\n\ndata: [DONE]\n\n"

    run(test)


def test_models_are_personas_versions_and_base(home: Home) -> None:
    async def test() -> None:
        registry = Registry(home.database)
        for version in (1, 2):
            registry.add("ironman", version)
        registry.promote("ironman", 2, "test", "")
        registry.close()
        async with gateway_over(echo) as (client, _):
            cards = {card["id"]: card for card in (await client.get("/v1/models")).json()["data"]}
            one = (await client.get("/v1/models/ironman@v1")).json()
            missing = await client.get("/v1/models/ironman@v3")
        assert set(cards) == {"ironman", "ironman@v1", "ironman@v2", "safe", "docs", "gemma-3-270m"}
        assert cards["ironman"]["root"] == "ironman@v2"
        assert one["root"] == "ironman@v1"
        assert missing.status_code == 404

    run(test)


def test_a_password_in_the_engines_address_is_not_shown() -> None:
    from serve.wire import Backend

    backend = Backend("http://user:hunter2@127.0.0.1:9/x", "", 1)
    assert backend.url == "http://127.0.0.1:9/x"
    assert b"hunter2" not in backend.request("/v1/models", b"")
