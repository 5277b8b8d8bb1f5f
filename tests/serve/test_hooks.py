"""Where documents and guard come in: hooks before the engine, filters on the reply, records at the end."""

import json
from typing import Any

from aiohttp import web
from gateway_fakes import CHAT, run, served, stream_of

from serve.call import Call
from serve.errors import Forbidden

IRONMAN = {**CHAT, "model": "ironman"}


class Shout:
    """A filter that changes events, adds one before `[DONE]`, and changes whole bodies."""

    async def events(self, data: bytes) -> bytes:
        return data.replace(b"hello", b"HELLO").replace(b"data: [DONE]", b'data: {"more":1}\n\ndata: [DONE]')

    async def end(self) -> bytes:
        return b""

    async def whole(self, body: bytes) -> bytes:
        return body.replace(b"hello", b"HELLO")


def test_hooks_change_what_goes_and_filters_what_comes() -> None:
    asked: list[dict[str, Any]] = []
    ended: list[tuple[str, int]] = []

    async def engine(request: web.Request) -> web.StreamResponse:
        asked.append(await request.json())
        if asked[-1].get("stream"):
            return await stream_of(request, b'data: "hel', b'lo"\n\n', b"data: [DONE]\n\n", pause=0.02)
        return web.json_response({"text": "hello"})

    async def hook(call: Call) -> None:
        assert call.payload
        if call.asked == {**IRONMAN, "user": "bad"}:
            raise Forbidden("not you")
        call.payload["messages"].append({"role": "user", "content": "added"})
        call.filters.append(Shout())

    async def test() -> None:
        async with served(engine) as s:
            s.app._generate.hooks.append(hook)  # type: ignore[attr-defined]
            s.app.records.append(lambda call: ended.append((call.model, call.reply.status)))
            whole = await s.client.post("/v1/chat/completions", json=IRONMAN)
            streamed = await s.client.post("/v1/chat/completions", json={**IRONMAN, "stream": True})
            refused = await s.client.post("/v1/chat/completions", json={**IRONMAN, "user": "bad"})
            base = await s.client.post("/v1/chat/completions", json=CHAT)
        assert whole.json() == {"text": "HELLO"}
        assert streamed.text == 'data: "HELLO"\n\ndata: {"more":1}\n\ndata: [DONE]\n\n'
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        assert base.json() == {"text": "hello"}

    run(test)
    assert [body["messages"][-1]["content"] for body in asked] == ["added", "added", "안녕"]
    assert ended == [("ironman", 200), ("ironman", 200), ("ironman", 403), ("gemma-3-270m", 200)]


def test_a_broken_hook_is_an_error_without_its_inside() -> None:
    async def engine(_: web.Request) -> web.Response:
        raise AssertionError("must not be asked")

    async def hook(_: Call) -> None:
        raise RuntimeError("the secret inside")

    async def test() -> None:
        async with served(engine) as s:
            s.app._generate.hooks.append(hook)  # type: ignore[attr-defined]
            reply = await s.client.post("/v1/chat/completions", json=IRONMAN)
            assert reply.status_code == 500
            assert json.loads(reply.text)["error"]["message"] == "internal error"
            assert 'status="500"' in (await s.client.get("/metrics")).text

    run(test)
