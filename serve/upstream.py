"""The connection to the engine, and the relay of one request: bytes in, bytes out."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Mapping

import aiohttp
from starlette.types import Receive, Send

from serve.engine import Engine
from serve.errors import ApiError, EngineLost, EngineNotReady
from serve.settings import Settings

log = logging.getLogger(__name__)
_KEPT = (b"content-type", b"cache-control", b"retry-after", b"x-request-id")


class Upstream:
    """One connection pool to the engine."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.engine = engine
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=settings.connect_seconds, sock_read=settings.idle_seconds
        )
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        # No cap of our own: the engine queues, and every admitted stream must get its connection at once.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60), timeout=self._timeout, auto_decompress=False
        )

    async def close(self) -> None:
        if self._session:
            await self._session.close()

    async def request(self, method: str, path: str, body: bytes | None = None) -> aiohttp.ClientResponse:
        """Send one request to the engine and wait for its headers.

        Raises:
            EngineNotReady: it is starting.
            EngineLost: it went away before it answered.
        """
        if not self.engine.ready:
            raise EngineNotReady(f"the engine is not ready: {self.engine.status.text}", retry_after=5)
        assert self._session
        headers = {"content-type": "application/json"}
        if self.engine.key:
            headers["authorization"] = f"Bearer {self.engine.key.get_secret_value()}"
        try:
            return await self._session.request(method, self.engine.url + path, data=body, headers=headers)
        except aiohttp.ClientConnectorError as error:
            raise EngineNotReady("the engine does not answer; it is being restarted", retry_after=5) from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineLost("the engine went away before it answered; ask again") from error


async def relay(upstream: Upstream, path: str, body: bytes, receive: Receive, send: Send) -> None:
    """Pass one POST to the engine and its reply back, chunk by chunk as it comes."""
    await while_connected(_pass_reply(upstream, path, body, send), receive)


async def while_connected(answering: Coroutine[None, None, None], receive: Receive) -> None:
    """Answer until it is done or the client goes away, which ends the request at the engine, too."""
    work = asyncio.create_task(answering)
    gone = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await gone
        with contextlib.suppress(asyncio.CancelledError, ApiError):
            await work


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def kept_headers(raw: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """The engine's headers that its client gets."""
    lower = {key.lower().encode(): value.encode("latin-1") for key, value in raw.items()}
    return [(key, lower[key]) for key in _KEPT if key in lower]


async def _pass_reply(upstream: Upstream, path: str, body: bytes, send: Send) -> None:
    async with await upstream.request("POST", path, body) as reply:
        streaming = reply.content_type == "text/event-stream"
        headers = kept_headers(reply.headers)
        if streaming:
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await _pass_stream(reply, send)
            return
        try:
            whole = await reply.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineLost("the engine went away while it answered; ask again") from error
        headers.append((b"content-length", str(len(whole)).encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": whole})


async def _pass_stream(reply: aiohttp.ClientResponse, send: Send) -> None:
    """Pass whole events on; an engine that dies ends the stream with an error event and no `[DONE]`."""
    held = b""
    try:
        async for chunk in reply.content.iter_any():
            whole, boundary, held = (held + chunk).rpartition(b"\n\n")
            if boundary:
                await send({"type": "http.response.body", "body": whole + boundary, "more_body": True})
        await send({"type": "http.response.body", "body": held})
    except (aiohttp.ClientError, TimeoutError):
        log.warning("the engine went away in mid-stream")
        error = EngineLost("the engine went away in mid-stream; the reply is incomplete, ask again")
        await send({"type": "http.response.body", "body": b"data: " + error.body() + b"\n\n"})
