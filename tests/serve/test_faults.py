"""What goes wrong behind, before and inside the gateway, and that every request still ends rightly."""

import asyncio
import json
import sqlite3
import time
from typing import Any

import httpx
import pytest
from aiohttp import web
from gateway_fakes import CHAT, bearer, echo, make_key, raw, run, served, stream_of

from personas.home import Home
from serve.engine import free_port

STREAM = {**CHAT, "stream": True}
DONE = b"data: [DONE]\n\n"


async def ask(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={**CHAT, **more})


async def talker(port: int, answer: bytes) -> asyncio.Server:
    """A server that reads a request and answers these bytes, whatever they are, then hangs up."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()

    return await asyncio.start_server(handle, "127.0.0.1", port)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"this is no HTTP\r\n\r\n", 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort", 502),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nbad", 502),
        (b"HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n", 502),
        (b"", 502),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}", 200),
        (b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{}", 200),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
    ],
)
def test_malformed_engines(answer: bytes, status: int) -> None:
    async def test() -> None:
        port = free_port()
        async with await talker(port, answer), served(port) as s:
            for _ in range(2):
                assert (await ask(s.client)).status_code == status

    run(test)


@pytest.mark.parametrize(
    "end", [b"", b"5\r\nhal", b"zz\r\n"], ids=["closed", "within a chunk", "not a chunk"]
)  # fmt: skip
def test_a_stream_that_breaks_ends_in_an_error_event(end: bytes) -> None:
    async def test() -> None:
        port = free_port()
        event = b'data: {"n":1}\n\n'
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        async with await talker(port, head + b"%x\r\n%s\r\n" % (len(event), event) + end), served(port) as s:
            text = (await ask(s.client, stream=True)).text
        first, second, rest = text.split("\n\n")
        assert (first, rest) == ('data: {"n":1}', "")
        assert json.loads(second.removeprefix("data: "))["error"]["code"] == "engine_lost"

    run(test)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_letters_split_between_packets_arrive_whole(end: str) -> None:
    events = [f'data: {{"text":"한글 {n} 가면"}}{end}'.encode() for n in range(40)] + [f"data: [DONE]{end}".encode()]
    pieces = [b"".join(events)[i : i + 7] for i in range(0, sum(map(len, events)), 7)]

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *pieces, pause=0.001)

    async def test() -> None:
        async with served(handler) as s, s.client.stream("POST", "/v1/chat/completions", json=STREAM) as reply:
            got = [part async for part in reply.aiter_raw()]
        assert b"".join(got) == b"".join(events)
        for part in got:  # whole events alone, so that no reader ever decodes half a letter
            assert part.endswith(end.encode())
            part.decode()

    run(test)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_done_after_an_error_is_not_believed(at_once: bool) -> None:
    # what vLLM 0.32 sends when its engine core is killed
    error = b'data: {"error": {"message": "EngineCore encountered an issue.", "type": "x", "param": null, "code": 500}}'
    events = [b'data: {"choices": []}\n\n', error + b"\n\n", DONE]

    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *([b"".join(events)] if at_once else events), pause=0.05)

    async def test() -> None:
        async with served(handler) as s:
            text = (await ask(s.client, stream=True)).text
            first, last, end = text.split("\n\n")
            assert (first, end) == ('data: {"choices": []}', "")
            said = json.loads(last.removeprefix("data: "))["error"]
            assert (said["code"], "EngineCore encountered" in said["message"]) == ("engine_lost", True)

    run(test)


@pytest.mark.parametrize("body", ['{"error": {"message": "EngineCore encountered an issue.", "code": 500}}', "", "[]"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_failed_engine_is_a_bad_gateway(body: str, stream: bool) -> None:
    # vLLM 0.32 answers with 500 when its engine core is killed before a reply has begun
    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=500, text=body, content_type="application/json")

    async def test() -> None:
        async with served(handler) as s:
            reply = await ask(s.client, stream=stream)
            said = reply.json()["error"]
            assert (reply.status_code, said["code"]) == (502, "engine_lost")
            assert ("EngineCore encountered" in said["message"]) == ("EngineCore" in body)
            shown = (await s.client.get("/admin/status")).json()["backends"][0]
            assert shown["in_flight"] == 0

    run(test)


def test_a_silent_engine_is_given_up() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        reply = await stream_of(request, b"data: 1\n\n")
        await asyncio.sleep(30)
        return reply

    async def test() -> None:
        async with served(handler, idle_seconds=0.6) as s:
            began = time.monotonic()
            text = (await ask(s.client, stream=True)).text
            assert "engine_lost" in text
            assert "[DONE]" not in text
            assert time.monotonic() - began < 3

    run(test)


def test_failover_before_the_first_byte() -> None:
    async def busy(_: web.Request) -> web.Response:
        return web.json_response({"error": "loading"}, status=503)

    async def dies(request: web.Request) -> web.Response:
        assert request.transport
        request.transport.abort()
        return web.Response()

    async def test() -> None:
        async with served(free_port(), busy, dies, echo) as s:
            replies = [await ask(s.client) for _ in range(8)]
            assert [r.status_code for r in replies] == [200] * 8
            shown = (await s.client.get("/admin/status")).json()["backends"]
            assert [b["in_flight"] for b in shown] == [0, 0, 0, 0]
            assert [bool(b["failures"]) for b in shown] == [True, True, True, False]
        async with served(free_port(), free_port()) as s:
            refused = await ask(s.client)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")

    run(test)


def test_a_failed_engine_is_asked_again_later() -> None:
    ill = True

    async def sometimes(request: web.Request) -> web.Response:
        return web.Response(status=503) if ill else await echo(request)

    counts = {"other": 0}

    async def other(request: web.Request) -> web.Response:
        counts["other"] += 1
        return await echo(request)

    async def test() -> None:
        nonlocal ill
        async with served(sometimes, other) as s:
            for _ in range(4):
                assert (await ask(s.client)).status_code == 200
            assert counts["other"] == 4
            ill = False
            await asyncio.sleep(1.2)
            for _ in range(4):
                assert (await ask(s.client)).status_code == 200
            assert counts["other"] < 8

    run(test)


def test_the_least_loaded_engine_is_chosen() -> None:
    seen = [0, 0, 0]

    def engine(number: int) -> Any:
        async def handler(request: web.Request) -> web.Response:
            seen[number] += 1
            await asyncio.sleep(0.3)
            return await echo(request)

        return handler

    async def test() -> None:
        async with served(engine(0), engine(1), engine(2)) as s:
            replies = await asyncio.gather(*(ask(s.client) for _ in range(12)))
            assert all(r.status_code == 200 for r in replies)
        assert seen == [4, 4, 4]

    run(test)


def test_a_kept_connection_that_the_engine_closed_is_replaced() -> None:
    async def test() -> None:
        async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await reader.read(1)  # the next request's first byte, upon which it hangs up
            writer.transport.abort()

        port = free_port()
        async with await asyncio.start_server(once, "127.0.0.1", port), served(port) as s:
            assert [(await ask(s.client)).status_code for _ in range(6)] == [200] * 6

    run(test)


def test_overload_is_shed_at_once_and_the_admitted_stay_fast() -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(0.4)
        return await echo(request)

    async def test() -> None:
        async with served(handler, max_in_flight=4) as s:
            began = time.monotonic()

            async def one() -> tuple[int, float, str | None]:
                reply = await ask(s.client)
                return reply.status_code, time.monotonic() - began, reply.headers.get("retry-after")

            got = await asyncio.gather(*(one() for _ in range(40)))
            good = [row for row in got if row[0] == 200]
            shed = [row for row in got if row[0] == 429]
            assert len(good) == 4
            assert len(shed) == 36
            assert max(seconds for _, seconds, _ in good) < 1.5
            assert {wait for _, _, wait in shed} == {"1"}

    run(test)


def test_a_slow_reader_is_bounded_and_then_ended() -> None:
    sent = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        event = b"data: " + b"x" * 64_000 + b"\n\n"
        while True:
            await reply.write(event)
            sent += len(event)

    async def test() -> None:
        async with served(handler, slow_seconds=1) as s:
            body = json.dumps(STREAM).encode()
            reader, writer = await asyncio.open_connection("127.0.0.1", s.port, limit=1024)
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            await asyncio.sleep(0.8)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            level = sent
            assert level < 40_000_000, "the gateway reads on for a client that does not"
            await asyncio.sleep(2.5)
            assert not s.app.running, "the slow reader still holds its place"
            assert sent - level < 10_000_000
            writer.close()
            del reader

    run(test)


def test_a_body_that_does_not_come_is_given_up() -> None:
    async def test() -> None:
        async with served(echo, body_seconds=0.5) as s:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{"
            assert b" 408 " in await raw(s.port, head, 3)

    run(test)


def test_a_stop_lets_running_streams_end() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *[b"data: %d\n\n" % n for n in range(10)], DONE, pause=0.1)

    async def test() -> None:
        async with served(handler) as s, s.client.stream("POST", "/v1/chat/completions", json=STREAM) as reply:
            lines = reply.aiter_lines()
            await anext(lines)
            s.server.should_exit = True
            rest = [line async for line in lines]
            assert rest[-2:] == ["data: [DONE]", ""]

    run(test)


def test_a_stop_cuts_what_outlasts_the_deadline_with_an_error() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *[b"data: %d\n\n" % n for n in range(1000)], pause=0.05)

    async def test() -> None:
        text = ""
        async with served(handler, drain_seconds=1) as s:
            began = time.monotonic()
            async with s.client.stream("POST", "/v1/chat/completions", json=STREAM) as reply:
                try:
                    async for part in reply.aiter_text():
                        text += part
                        s.server.should_exit = True
                except httpx.RemoteProtocolError:
                    pass
            assert time.monotonic() - began < 4
        assert "engine_lost" in text.split("\n\n")[-2]
        assert "[DONE]" not in text

    run(test)


def test_a_full_disk_does_not_stop_answers(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = make_key(home)

    async def test() -> None:
        async with served(echo) as s:

            def full() -> None:
                raise sqlite3.OperationalError("database or disk is full")

            monkeypatch.setattr(s.app._other.state.gamyeon.usage, "flush", full)  # type: ignore[attr-defined]
            for _ in range(3):
                reply = await s.client.post("/v1/chat/completions", json=CHAT, headers=bearer(secret))
                assert reply.status_code == 200
                await asyncio.sleep(0.9)

    run(test)


def test_hundreds_of_clients_that_leave_free_everything() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await stream_of(request, *[b"data: %d\n\n" % n for n in range(1000)], pause=0.02)

    async def test() -> None:
        async with served(handler) as s:

            async def leave() -> None:
                async with s.client.stream("POST", "/v1/chat/completions", json=STREAM) as reply:
                    await anext(reply.aiter_bytes())

            for _ in range(3):
                await asyncio.gather(*(leave() for _ in range(60)))
            await asyncio.sleep(1)
            assert not s.app.running
            shown = (await s.client.get("/admin/status")).json()["backends"][0]
            assert (shown["in_flight"], shown["connections"]) == (0, 0)
            assert "gamyeon_in_flight 0.0" in (await s.client.get("/metrics")).text

    run(test)
