"""A fake upstream that answers OpenAI's chat route from ready bytes, so that a gateway's own cost is what is measured.

    python bench/fake_engine.py --port 9000 [--pace-ms 20]

Streams have `CHUNKS` events of one token each, written one by one; `--pace-ms` puts that time between them.
"""

import argparse
import asyncio
import json
from collections.abc import Iterator
from typing import cast

import uvloop

CHUNKS = 64
_ID = {"id": "chatcmpl-8f2c1d3e4a5b6c7d", "created": 1_760_000_000, "model": "fake"}
_USAGE = {"prompt_tokens": 42, "completion_tokens": CHUNKS, "total_tokens": 42 + CHUNKS}


def _json(value: dict[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _whole() -> bytes:
    message = {"role": "assistant", "content": "내가 만든 슈트니까 당연히 완벽하지. " * 8}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    body = _json({**_ID, "object": "chat.completion", "choices": [choice], "usage": _USAGE})
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _frame(event: bytes) -> bytes:
    event = b"data: " + event + b"\n\n"
    return b"%x\r\n%s\r\n" % (len(event), event)


def _events(usage: bool) -> list[bytes]:
    made: list[bytes] = []
    for number in range(CHUNKS):
        end = "stop" if number == CHUNKS - 1 else None
        choice = {"index": 0, "delta": {"content": "슈트"}, "logprobs": None, "finish_reason": end}
        made.append(_frame(_json({**_ID, "object": "chat.completion.chunk", "choices": [choice]})))
    if usage:
        made.append(_frame(_json({**_ID, "object": "chat.completion.chunk", "choices": [], "usage": _USAGE})))
    return [*made, _frame(b"[DONE]") + b"0\r\n\r\n"]


WHOLE = _whole()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = {usage: _events(usage) for usage in (False, True)}


class Fake(asyncio.Protocol):
    """One connection: reads whole requests by their content-length and writes ready bytes."""

    pace = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop does not derive from it
        self._loop = asyncio.get_running_loop()
        self._held = b""

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, found, rest = self._held.partition(b"\r\n\r\n")
        if not found:
            return
        lower = head.lower()
        length = 0
        if (at := lower.find(b"content-length:")) >= 0:
            length = int(lower[at + 15 :].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        body, self._held = rest[:length], rest[length:]
        if b'"stream":true' in body or b'"stream": true' in body:
            self._transport.write(HEAD)
            self._next(iter(EVENTS[b"include_usage" in body]))
        else:
            self._transport.write(WHOLE)

    def _next(self, events: Iterator[bytes]) -> None:
        event = next(events, None)
        if event is None or self._transport.is_closing():
            return
        self._transport.write(event)
        if self.pace:
            self._loop.call_later(self.pace, self._next, events)
        else:
            self._loop.call_soon(self._next, events)


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Fake, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pace-ms", type=float, default=0)
    given = parser.parse_args()
    Fake.pace = given.pace_ms / 1000
    uvloop.run(_main(given.port))
