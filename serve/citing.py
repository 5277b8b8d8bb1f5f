"""Fields that a reply gets at its end: in the body, or in the last chunk of a stream."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from serve.relay import parsed


class Citing:
    """A filter of one reply.

    Args:
        report: the fields to add for the reply's text; runs in a thread.
        instead: what is said in place of the reply's own text; None to keep it.
    """

    def __init__(self, report: Callable[[str], dict[str, Any]], instead: str | None) -> None:
        self._report = report
        self._instead = instead
        self._said: dict[int, str] = {}
        self._held = b""

    async def whole(self, body: bytes) -> bytes:
        reply = parsed(body)
        for choice in reply.get("choices", ()):
            message = choice.get("message") or {}
            if self._instead is not None:
                message["content"], choice["finish_reason"] = self._instead, "stop"
            self._said[choice.get("index", 0)] = message.get("content") or ""
        reply |= await asyncio.to_thread(self._report, self._said.get(0, ""))
        return orjson.dumps(reply)

    async def events(self, data: bytes) -> bytes:
        """Whole events pass, the last one held back until it is known to be the last."""
        out = b""
        for event in data.split(b"\n\n"):
            if not event.strip():
                continue
            if event.startswith(b"data: [DONE]"):
                out += await self._last() + event + b"\n\n"
                continue
            if self._held:
                out += self._held + b"\n\n"
            self._held = self._seen(event)
        return out

    async def end(self) -> bytes:
        return await self._last()

    async def _last(self) -> bytes:
        """The held event with what we know at the end."""
        event, self._held = self._held, b""
        chunk = chunk_of(event)
        if chunk is None:
            return event + b"\n\n" if event else b""
        chunk |= await asyncio.to_thread(self._report, self._said.get(0, ""))
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _seen(self, event: bytes) -> bytes:
        """Note an event's text; with `instead`, the first text becomes it and further ones are dropped."""
        chunk = chunk_of(event)
        if chunk is None:
            return event
        for choice in chunk.get("choices", ()):
            index, delta = choice.get("index", 0), choice.get("delta") or {}
            text = delta.get("content")
            if self._instead is not None:
                first = index not in self._said and (text or choice.get("finish_reason"))
                choice["delta"] = {**delta, "content": self._instead if first else ""}
                text = self._instead if first else None
                choice["finish_reason"] = "stop" if choice.get("finish_reason") else None
            if text:
                self._said[index] = self._said.get(index, "") + text
        return event if self._instead is None else b"data: " + orjson.dumps(chunk)


def chunk_of(event: bytes) -> dict[str, Any] | None:
    """The JSON of an event; None for a comment or an error."""
    if not event.startswith(b"data: {"):
        return None
    chunk = parsed(event[6:])
    return chunk if "choices" in chunk else None
