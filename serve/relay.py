"""The relay of an engine's reply to the client: whole, or event by event as it comes."""

import logging
import re
from time import monotonic
from typing import Any, Protocol

import orjson
from starlette.types import Send

from serve.errors import ApiError, EngineLost
from serve.wire import Wire

log = logging.getLogger(__name__)
_BROKEN = b'data: {"error"'  # an event: within a text the quotes are escaped
_KEPT = (b"content-type", b"cache-control", b"retry-after")
_MAX_WHOLE = 64 * 1024 * 1024
MAX_EVENT = 4 * 1024 * 1024
_USAGE = re.compile(rb'"usage":\s*\{[^{}]*"prompt_tokens":\s*(\d+)[^{}]*')
_COMPLETION = re.compile(rb'"completion_tokens":\s*(\d+)')
_RESPONSE_USAGE = re.compile(rb'"usage":\s*\{.*?"input_tokens":\s*(\d+).*?"output_tokens":\s*(\d+)', re.DOTALL)


class Filter(Protocol):
    """Looks at a reply on its way to the client and may change it; made for one request."""

    async def events(self, data: bytes) -> bytes:
        """Whole SSE events as they come; returns what goes on (`b""`: nothing yet)."""

    async def end(self) -> bytes:
        """What is still to be sent when the stream has ended well."""

    async def whole(self, body: bytes) -> bytes:
        """The body of a reply that is no stream."""


class Reply:
    """What became of one request: counted by the relay, read by metrics, usage and the log. Times: `time.monotonic`."""

    __slots__ = ("completion_tokens", "events", "first", "prompt_tokens", "sending_since", "started", "status")

    def __init__(self) -> None:
        self.status = 0
        self.started = False
        self.first = 0.0
        self.events = 0
        self.sending_since = 0.0  # not 0 while the client is waited for
        self.prompt_tokens = 0
        self.completion_tokens = 0

    def read_usage(self, data: bytes) -> None:
        """Take the token counts from the last usage object in some JSON; inside a string its quotes are escaped."""
        tail = data[data.rfind(b'"usage"') :]
        if (found := _USAGE.match(tail)) and (answered := _COMPLETION.search(found[0])):
            self.prompt_tokens, self.completion_tokens = int(found[1]), int(answered[1])
        elif found := _RESPONSE_USAGE.match(tail):
            self.prompt_tokens, self.completion_tokens = int(found[1]), int(found[2])


def kept_headers(wire: Wire) -> list[tuple[bytes, bytes]]:
    """The engine's headers that its client gets."""
    return [(name, wire.headers[name]) for name in _KEPT if name in wire.headers]


def parsed(data: bytes) -> dict[str, Any]:
    """An object that the engine sent as JSON.

    Raises:
        EngineLost: it is not JSON.
    """
    try:
        found: dict[str, Any] = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise EngineLost("the engine sent what is not JSON; ask again") from None
    return found


def broken_off(event: dict[str, Any]) -> EngineLost:
    """What an engine's error event in mid-stream means to the reader."""
    said = event["error"].get("message", "") if isinstance(event["error"], dict) else event["error"]
    return EngineLost(f"the engine broke off: {said}")


def failed(body: bytes) -> EngineLost:
    """What an engine's answer of status 500 means to the client."""
    try:
        return broken_off(orjson.loads(body))
    except (ValueError, KeyError, TypeError):
        return EngineLost("the engine failed; ask again")


def streams(wire: Wire) -> bool:
    """Whether a reply is a stream of events."""
    return wire.headers.get(b"content-type", b"").startswith(b"text/event-stream")


async def relay(
    wire: Wire,
    send: Send,
    reply: Reply,
    headers: list[tuple[bytes, bytes]],
    filters: list[Filter],
    strip_usage: bool,
) -> None:
    """Pass a reply whose head has come to the client, chunk by chunk as it comes.

    Args:
        headers: of ours, put before the engine's.
        filters: each sees what the one before let through.
        strip_usage: the client did not ask for the usage event that the gateway asked for.
    """
    headers += kept_headers(wire)
    reply.status = wire.status
    if streams(wire):
        reply.started = True
        await send({"type": "http.response.start", "status": wire.status, "headers": headers})
        await _pass_stream(wire, send, reply, filters, strip_usage)
        return
    await send_whole(send, reply, headers, await read_whole(wire), filters)


async def send_whole(
    send: Send, reply: Reply, headers: list[tuple[bytes, bytes]], body: bytes, filters: list[Filter]
) -> None:
    """Send a reply that is no stream, whose status `reply` has: filtered, its usage noted, where that is 200."""
    if reply.status == 200:
        reply.read_usage(body)
        for each in filters:
            body = await each.whole(body)
    reply.started = True
    headers = [*headers, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_events(send: Send, reply: Reply, events: list[bytes], filters: list[Filter]) -> None:
    """Send the events of a stream that has begun, filtered, and end it."""
    reply.first = monotonic()
    for number, event in enumerate(events, 1):
        reply.events += 1
        for each in filters:
            event = await each.events(event)
        ends = number == len(events)
        if ends:
            for each in filters:
                event += await each.end()
        await send({"type": "http.response.body", "body": event, "more_body": not ends})


async def read_whole(wire: Wire) -> bytes:
    """The rest of a reply that is no stream."""
    parts: list[bytes] = []
    size = 0
    while part := await wire.read():
        parts.append(part)
        size += len(part)
        if size > _MAX_WHOLE:
            raise EngineLost("the engine's reply does not end")
    return b"".join(parts)


def without_usage(data: bytes) -> bytes:
    """Events without the one that has usage and no choices."""
    events = data.replace(b"\r\n", b"\n").split(b"\n\n")
    return b"\n\n".join(e for e in events if not (b'"usage"' in e and re.search(rb'"choices":\s*\[\]', e)))


async def _pass_stream(wire: Wire, send: Send, reply: Reply, filters: list[Filter], strip_usage: bool) -> None:
    """Pass whole events on; an engine that dies ends the stream with an error event and no `[DONE]`."""
    held = b""
    try:
        while data := await wire.read():
            if held:
                data = held + data
            if data.endswith(b"\n\n"):
                held = b""
            else:
                at = max(data.rfind(b"\n\n") + 2, data.rfind(b"\r\n\r\n") + 4)
                if at < 4 and len(data) > MAX_EVENT:
                    raise EngineLost("the engine's event does not end")
                data, held = (data[:at], data[at:]) if at >= 4 else (b"", data)
                if not data:
                    continue
            lost = b""
            if (broken := data.find(_BROKEN)) >= 0:
                data, lost = data[:broken], data[broken:]
            reply.events += data.count(b"\n\n")
            if b'"usage"' in data:
                reply.read_usage(data)
                if strip_usage:
                    data = without_usage(data)
            if filters and b"\r" in data:
                data = data.replace(b"\r\n", b"\n")  # JSON writes them as escapes
            for each in filters:
                data = await each.events(data)
            if data:
                if not reply.first:
                    reply.first = monotonic()
                reply.sending_since = monotonic()
                await send({"type": "http.response.body", "body": data, "more_body": True})
                reply.sending_since = 0.0
            if lost:  # vLLM says `[DONE]` after an error, too
                raise broken_off(parsed(lost[len(b"data: ") :].splitlines()[0]))
        for each in filters:
            held += await each.end()
        await send({"type": "http.response.body", "body": held})
    except ApiError as error:
        log.warning("a stream was cut: %s", error.message)
        reply.status = error.status
        await send({"type": "http.response.body", "body": b"data: " + error.body() + b"\n\n"})
