"""The best of several replies: the engine writes them at once, and one goes to the reader, whole.

A small model that leaves its examples makes things up, so what they support best is the best: the letters that a reply
has in common with the nearest of their answers. Without examples it is what the replies have in common with each other.
A reply that does not end or drifts from Korean comes after all others.
"""

from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import Send

from personas.language import first_drift
from personas.schema import Guard
from personas.texts import overlap
from serve.call import Call, Hook
from serve.prompt import Payload
from serve.relay import kept_headers, parsed, read_whole, send_events, send_whole
from serve.steering import is_plain
from serve.upstream import Upstream

_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
_HEAD = ("id", "created", "model", "system_fingerprint")
_DRIFT = Guard().threshold


def best(choices: list[dict[str, Any]], answers: list[str]) -> dict[str, Any]:
    """The best supported of an engine's choices; the first of equals.

    Args:
        answers: of the examples that the model was shown.
    """
    texts = [choice["message"].get("content") or "" for choice in choices]

    def rank(at: int) -> tuple[bool, bool, float]:
        others = answers or [text for other, text in enumerate(texts) if other != at]
        likes = [overlap(texts[at], other) for other in others]
        support = max(likes, default=0.0) if answers else sum(likes)
        return choices[at].get("finish_reason") == "stop", not first_drift(texts[at], _DRIFT)[2], support

    return choices[max(range(len(choices)), key=rank)]


@dataclass
class Chosen:
    """One reply that is chosen from several."""

    upstream: Upstream
    call: Call
    n: int

    async def run(self, send: Send) -> None:
        """Answer the request."""
        async with self.upstream.asking(self.call.route, self._body(), self.call.extra) as wire:
            raw, self.call.reply.status = await read_whole(wire), wire.status
            headers = kept_headers(wire)
        if self.call.reply.status == 200:
            answer = parsed(raw)
            answer["choices"] = [{**best(answer["choices"], self._answers), "index": 0}]
            if self.call.stream:
                self.call.reply.read_usage(raw)
                await self._stream(send, answer)
                return
            raw = orjson.dumps(answer)
        await send_whole(send, self.call.reply, [*self.call.headers, *headers], raw, self.call.filters)

    @property
    def _answers(self) -> list[str]:
        return [one.said for one in self.call.examples]

    def _body(self) -> bytes:
        payload: Payload = {**(self.call.payload or {}), "n": self.n, "stream": False}
        payload.pop("stream_options", None)
        return orjson.dumps(payload)

    async def _stream(self, send: Send, answer: dict[str, Any]) -> None:
        self.call.reply.started = True
        await send({"type": "http.response.start", "status": 200, "headers": [*self.call.headers, *_EVENTS]})
        await send_events(send, self.call.reply, _events(answer, usage=not self.call.strip_usage), self.call.filters)


def _events(answer: dict[str, Any], *, usage: bool) -> list[bytes]:
    """The events of a stream that says all at once."""
    (choice,) = answer["choices"]
    head: dict[str, Any] = {key: answer[key] for key in _HEAD if key in answer}
    head["object"] = "chat.completion.chunk"
    deltas: tuple[dict[str, str], ...] = (
        {"role": "assistant", "content": ""},
        {"content": choice["message"].get("content") or ""},
        {},
    )
    ends = (None, None, choice.get("finish_reason"))
    chunks = [
        {**head, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": end}]}
        for delta, end in zip(deltas, ends, strict=True)
    ]
    chunks += [{**head, "choices": [], "usage": answer.get("usage")}] if usage else []
    return [b"data: " + part + b"\n\n" for part in [*map(orjson.dumps, chunks), b"[DONE]"]]


def choose_replies(upstream: Upstream) -> Hook:
    """A hook that lets the best of several replies answer for a persona that asks for it."""

    async def hook(call: Call) -> None:
        assert call.target
        assert call.target.persona
        assert call.payload is not None
        wanted = (call.redirected or call.target.persona).best_of
        if wanted and not call.settled and is_plain(call.route, call.payload):
            call.answer = Chosen(upstream, call, wanted.n).run

    return hook
