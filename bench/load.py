"""A load generator of low overhead: asyncio protocols over keep-alive connections, one request at a time on each."""

import asyncio
import time
from dataclasses import dataclass, field
from typing import cast


@dataclass
class Load:
    """What a run of `seconds` saw; times in seconds, `gaps` between the reads of a stream's events."""

    seconds: float = 0.0
    whole: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    chunks: int = 0
    failed: int = 0


class _Client(asyncio.Protocol):
    """One connection that asks again as soon as it has its answer, until `deadline`."""

    def __init__(self, request: bytes, load: Load, until: float, ended: asyncio.Future[None]) -> None:
        self._request, self._load, self._until, self._ended = request, load, until, ended
        self._left = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop does not derive from it
        self._ask()

    def _ask(self) -> None:
        self._head, self._last, self._left = b"", 0.0, -1
        self._began = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        if self._head is not None:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._begin(head)
            if not data:
                return
        if self._left >= 0:
            self._left -= len(data)
            if self._left <= 0:
                self._done(now)
            return
        events = data.count(b"data: ")
        if events:
            self._load.chunks += events
            if self._last:
                self._load.gaps.append(now - self._last)
            else:
                self._load.first.append(now - self._began)
            self._last = now
        if data.endswith(b"0\r\n\r\n"):
            self._done(now)

    def _begin(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 200"):
            self._load.failed += 1
        lower = head.lower()
        at = lower.find(b"content-length:")
        self._left = int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else -1
        self._head = None  # type: ignore[assignment]

    def _done(self, now: float) -> None:
        self._load.whole.append(now - self._began)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        if time.perf_counter() < self._until:
            self._load.failed += 1
        if not self._ended.done():
            self._ended.set_result(None)


def request_bytes(host: str, body: bytes, key: str = "") -> bytes:
    """A POST to the chat route."""
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{authorization}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


async def load(port: int, request: bytes, clients: int, seconds: float) -> Load:
    """Keep `clients` requests going for `seconds`; the last ones are waited for and counted."""
    seen = Load()
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    ends: list[asyncio.Future[None]] = []
    for _ in range(clients):
        ended: asyncio.Future[None] = loop.create_future()
        await loop.create_connection(
            lambda ended=ended: _Client(request, seen, began + seconds, ended),  # type: ignore[misc]
            "127.0.0.1",
            port,
        )
        ends.append(ended)
    await asyncio.gather(*ends)
    seen.seconds = time.perf_counter() - began
    return seen
