"""One HTTP/1.1 connection to an engine, and the pool of a whole engine.

A relay needs far less than a general client: bytes out in one write, a status, a few headers, and the body as it
comes. Measured, this halves the gateway's time a request against aiohttp's session. The parser is httptools' (llhttp).
"""

import asyncio
import ssl
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

from serve.errors import EngineLost, EngineNotReady

Headers = dict[bytes, bytes]
_HIGH_WATER = 256 * 1024  # bytes of a reply held for a slow reader before the engine's socket is left unread
_IDLE_SECONDS = 4.0  # uvicorn, and so vLLM, closes an idle connection after 5 s
_BODILESS = (204, 304)


class Wire(asyncio.Protocol):
    """One connection: `send` a request, `head`, then `read` until `b""`. Not for two requests at a time."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._parts: list[bytes] = []
        self._held = 0
        self.paused = False  # the reader is slow, so silence is not the engine's
        self.error: Exception | None = None
        self.dropped = False  # by the engine, not by us
        self.reset()

    def reset(self) -> None:
        self.status = 0
        self.headers: Headers = {}
        self.done = False
        self._keeps = False
        self.busy = False
        self.last = self._loop.time()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not derive from it

    def data_received(self, data: bytes) -> None:
        self.last = self._loop.time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.fail(EngineLost("the engine sent what is not HTTP; ask again"))
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self.status and not self._framed():
            self.done = True  # a body that ends with the connection
        if self.error is None:
            self.dropped = True
            self.error = EngineLost("the engine went away; ask again")
        self._wake()

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self.status = status
        else:
            self.headers.clear()

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)
        self._held += len(part)
        if self._held > _HIGH_WATER and not self.paused:
            self.paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self.status:
            self.done = True
            self._keeps = self._parser.should_keep_alive()  # the parser knows it at this moment alone

    # What the relay calls.

    @property
    def reusable(self) -> bool:
        return self.error is None and self.done and not self._parts and not self._transport.is_closing() and self._keeps

    def send(self, data: bytes) -> None:
        self.busy = True
        self.last = self._loop.time()
        self._transport.write(data)

    async def head(self) -> int:
        """Wait for status and headers.

        Raises:
            EngineLost: the connection ended before.
        """
        while not self.status:
            await self._wait()
        return self.status

    async def read(self) -> bytes:
        """What has come of the body since the last call, at least a byte; `b""` at its end.

        Raises:
            EngineLost: the connection ended before the body did, or `fail` was called.
        """
        while not self._parts:
            if self.done:
                return b""
            await self._wait()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._held = 0
        if self.paused:
            self.paused = False
            self._transport.resume_reading()
        return data

    def fail(self, error: Exception) -> None:
        """End the connection at once; who waits for it gets the error."""
        if self.error is None:
            self.error = error
        self._transport.abort()
        self._wake()

    def _framed(self) -> bool:
        return b"content-length" in self.headers or b"transfer-encoding" in self.headers or self.status in _BODILESS

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _wait(self) -> None:
        if self.error is not None:
            raise self.error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Backend:
    """One engine's address, its idle connections and how it has fared.

    Args:
        url: without `/v1`.
        key: the bearer token, or "".
        connect_seconds: longest wait for a connection.
    """

    def __init__(self, url: str, key: str, connect_seconds: float) -> None:
        parts = urlsplit(url)
        self.url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # shown; may not hold a password
        self._host = parts.hostname or ""
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/")
        self._connect_seconds = connect_seconds
        authorization = f"authorization: Bearer {key}\r\n" if key else ""
        self._common = f" HTTP/1.1\r\nhost: {parts.netloc.rpartition('@')[2]}\r\n{authorization}"
        self._idle: deque[Wire] = deque()
        self.wires: set[Wire] = set()
        self.in_flight = 0
        self.failures = 0
        self.shun_until = 0.0

    def request(self, path: str, body: bytes, extra: str = "") -> bytes:
        """The bytes of a POST, or of a GET where there is no body; `extra` is whole header lines."""
        method = "POST" if body else "GET"
        typed = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        return f"{method} {self._prefix}{path}{self._common}{extra}{typed}\r\n".encode("latin-1") + body

    async def ask(self, request: bytes) -> Wire:
        """Send a request and wait for the head of its reply.

        A kept connection that the engine closed in the same moment is replaced once by a new one.

        Raises:
            EngineNotReady: no connection.
            EngineLost: the engine went away before it answered.
        """
        wire = self._kept()
        if wire is not None:
            try:
                return await self._head(wire, request)
            except EngineLost:
                if not wire.dropped or wire.headers:
                    raise
        return await self._head(await self._connect(), request)

    def give_back(self, wire: Wire) -> None:
        """Keep the connection for the next request, or end it."""
        if wire.reusable:
            wire.reset()
            self._idle.append(wire)
        else:
            wire.fail(EngineLost("closed"))
            self.wires.discard(wire)

    def close(self) -> None:
        for wire in self.wires:
            wire.fail(EngineLost("the gateway stops"))
        self.wires.clear()
        self._idle.clear()

    def sweep(self, now: float, idle_seconds: float) -> None:
        """End connections that an engine left silent within a reply, and kept ones that have grown old."""
        for wire in list(self.wires):
            if wire.busy and not wire.paused and now - wire.last > idle_seconds:
                wire.fail(EngineLost(f"the engine was silent for {idle_seconds:g} s; ask again"))
            elif wire.error is not None and not wire.busy:
                self.wires.discard(wire)
        while self._idle and now - self._idle[0].last > _IDLE_SECONDS:
            old = self._idle.popleft()
            old.fail(EngineLost("idle"))
            self.wires.discard(old)

    def _kept(self) -> Wire | None:
        fresh = asyncio.get_running_loop().time() - _IDLE_SECONDS
        while self._idle:
            wire = self._idle.pop()
            if wire.error is None and wire.last > fresh:
                return wire
            wire.fail(EngineLost("idle"))
            self.wires.discard(wire)
        return None

    async def _head(self, wire: Wire, request: bytes) -> Wire:
        wire.send(request)
        try:
            await wire.head()
        except BaseException:
            wire.fail(EngineLost("left"))
            self.wires.discard(wire)
            raise
        return wire

    async def _connect(self) -> Wire:
        try:
            async with asyncio.timeout(self._connect_seconds):
                _, wire = await asyncio.get_running_loop().create_connection(
                    Wire, self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            raise EngineNotReady("the engine does not answer; it is being restarted", retry_after=5) from error
        self.wires.add(wire)
        return wire
