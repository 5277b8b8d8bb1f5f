"""The language guard: a persona's reply is checked sentence by sentence before its reader sees it.

A sentence that drifts from Korean is never sent. The answer is asked for again from the last good sentence, first
with a firmer instruction and a lower temperature, then with an output in which no other script can be spelled.
When the tries are over, the reply ends at its last good sentence, or is the persona's fallback.
"""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

from starlette.types import Send

from personas.language import Sentences, first_drift, judge
from personas.schema import Guard
from serve.call import Call, Hook
from serve.errors import ApiError, EngineLost
from serve.masking import Overheard
from serve.metrics import Metrics
from serve.prompt import Payload
from serve.relay import MAX_EVENT, broken_off, kept_headers, parsed, read_whole, send_whole, streams
from serve.steering import COUNTED, added_usage, applies, steered
from serve.upstream import Upstream
from serve.wire import Wire


async def _events(wire: Wire) -> AsyncIterator[dict[str, Any]]:
    """The JSON of each event; bytes are put together to whole events before they are decoded."""
    held = b""
    while chunk := await wire.read():
        *whole, held = (held + chunk).replace(b"\r\n", b"\n").split(b"\n\n")
        if len(held) > MAX_EVENT:
            raise EngineLost("the engine's event does not end")
        for event in whole:
            if event.startswith(b"data: {"):
                yield parsed(event[6:])


@dataclass
class Guarded:
    """One guarded reply."""

    upstream: Upstream
    metrics: Metrics
    guard: Guard
    call: Call
    vllm: bool = True
    good: str = ""
    spent: int = 0  # tokens of accepted sentences, about: one event of the engine is one token
    _first: dict[str, Any] = field(default_factory=dict)
    _usage: dict[str, Any] = field(default_factory=dict)  # of this try, as far as it is known
    _prompt: int = 0  # tokens of the first try's prompt
    _completion: int = 0  # tokens of the tries before, thrown away or not: they were generated

    @property
    def payload(self) -> Payload:
        assert self.call.payload is not None
        return self.call.payload

    def _note_sentence(self, drift: str) -> None:
        self.metrics.labelled(self.metrics.guard_sentences, self.call.model, drift or "none").inc()

    def _note_reply(self, outcome: str) -> None:
        self.metrics.labelled(self.metrics.guard_replies, self.call.model, outcome).inc()

    def _drift(self, sentence: str) -> bool:
        drift = judge(sentence, self.guard.threshold, self._allowed).drift
        self._note_sentence(drift)
        if drift:
            self.call.drifts.append(self.good + sentence)
        return bool(drift)

    @property
    def _allowed(self) -> frozenset[str]:
        return frozenset(word.lower() for word in self.guard.allow)

    def _body(self, attempt: int) -> bytes:
        made = steered(self.payload, self.good, attempt, self.vllm, self.spent) if attempt else self.payload
        if self.vllm and made.get("stream"):  # a try that is broken off has no usage event
            made = {**made, "stream_options": {**(made.get("stream_options") or {}), **COUNTED}}
        return json.dumps(made, ensure_ascii=False).encode("utf-8", "surrogatepass")

    def _asking(self, attempt: int) -> AbstractAsyncContextManager[Wire]:
        return self.upstream.asking(self.call.route, self._body(attempt), self.call.extra)

    async def run(self, send: Send) -> None:
        """Answer the request."""
        await (self._stream(send) if self.payload.get("stream") else self._whole(send))

    async def _whole(self, send: Send) -> None:
        total = 0
        for attempt in range(self.guard.tries + 1):
            async with self._asking(attempt) as wire:
                raw, status = await read_whole(wire), wire.status
                headers = [*self.call.headers, *kept_headers(wire)]
            if status != 200:
                if attempt:
                    break
                await self._send_whole(send, status, headers, raw)
                return
            answer = parsed(raw)
            self._first = self._first or answer
            total += (answer.get("usage") or {}).get("completion_tokens", 0)
            text = answer["choices"][0]["message"].get("content") or ""
            before, bad, drift = first_drift(text, self.guard.threshold, self._allowed)
            self._note_sentence(drift)
            if not bad:
                if attempt:
                    answer["choices"][0]["message"]["content"] = self.good + text
                    answer |= {"id": self._first["id"], "usage": added_usage(answer, self._first, total)}
                    raw = json.dumps(answer, ensure_ascii=False).encode()
                self._note_reply("mended" if attempt else "clean")
                await self._send_whole(send, 200, headers, raw)
                return
            self.call.drifts.append(self.good + before + bad)
            self.good += before
            self.spent = len(self.good)
        self._note_reply("cut" if self.good else "fallback")
        last = self._first["choices"][0]
        last["message"]["content"] = self.good.rstrip() or self.guard.fallback
        last["finish_reason"] = "stop"
        self._first["usage"] = added_usage(self._first, self._first, total)
        await self._send_whole(send, 200, headers, json.dumps(self._first, ensure_ascii=False).encode())

    async def _stream(self, send: Send) -> None:
        try:
            for attempt in range(self.guard.tries + 1):
                async with self._asking(attempt) as wire:
                    headers = [*self.call.headers, *kept_headers(wire)]
                    if not streams(wire):
                        if attempt:
                            break
                        await self._send_whole(send, wire.status, headers, await read_whole(wire))
                        return
                    if not attempt:
                        self.call.reply.status, self.call.reply.started = wire.status, True
                        await send({"type": "http.response.start", "status": wire.status, "headers": headers})
                    if await self._pass_good(wire, send):
                        self._note_reply("mended" if attempt else "clean")
                        await self._done(send)
                        return
                self._next_try()
            await self._give_up(send)
        except ApiError as error:
            if not self.call.reply.started:
                raise
            self.call.reply.status = error.status
            await send({"type": "http.response.body", "body": b"data: " + error.body() + b"\n\n"})

    async def _pass_good(self, wire: Wire, send: Send) -> bool:
        """Send sentences as they become whole and prove good; False at the first that drifts."""
        splitter, pending, ended = Sentences(), 0, False
        async for event in _events(wire):
            if "error" in event:
                raise broken_off(event)
            choice = next(iter(event.get("choices") or []), None)
            self._count(event, choice)
            if not self._first:
                self._first = event
            text = choice["delta"].get("content") if choice else None
            ends = choice is not None and choice.get("finish_reason")
            ended = ended or bool(ends)
            pending += bool(text)
            sentences = splitter.feed(text or "") + (splitter.flush() if ends else [])
            for sentence, code in sentences:
                if not code and self._drift(sentence):
                    return False
                self.good += sentence
                self.spent, pending = self.spent + pending, 0
                if choice is not None and not ends:
                    await self._text(send, event, sentence)
            if ends and choice is not None:
                choice["delta"]["content"] = "".join(sentence for sentence, _ in sentences)
                await self._event(send, event)
            elif choice is None:
                await self._usage_event(send, event)
            elif not text and event is self._first:
                await self._event(send, event)  # the role in front
        if not ended:
            raise EngineLost("the engine's reply has no end; ask again")
        return True

    def _count(self, event: dict[str, Any], choice: dict[str, Any] | None) -> None:
        """Note how many tokens this try has had; what an event with text says of it is not for the reader."""
        usage = event.get("usage") if choice is None else event.pop("usage", None)
        if isinstance(usage, dict):
            self._usage = {**self._usage, **usage}
        elif choice is not None and choice["delta"].get("content"):  # an engine that does not say: an event, a token
            self._usage["completion_tokens"] = self._usage.get("completion_tokens", 0) + 1

    def _next_try(self) -> None:
        """Add up what the try that failed has used."""
        self._prompt = self._prompt or self._usage.get("prompt_tokens", 0)
        self._completion += self._usage.get("completion_tokens", 0)
        self._usage = {}

    async def _text(self, send: Send, event: dict[str, Any], text: str) -> None:
        choice = {**event["choices"][0], "delta": {"content": text}}
        await self._event(send, {**event, "choices": [choice]})

    async def _event(self, send: Send, event: dict[str, Any]) -> None:
        """One event under the id of the first try: to its reader this is one reply."""
        if "id" in self._first and "id" in event:
            event = {**event, "id": self._first["id"]}
        data = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
        reply = self.call.reply
        reply.events += 1
        reply.first = reply.first or monotonic()
        reply.sending_since = monotonic()
        body = await self._filtered(b"data: " + data + b"\n\n")
        await send({"type": "http.response.body", "body": body, "more_body": True})
        reply.sending_since = 0.0

    async def _filtered(self, data: bytes) -> bytes:
        for each in self.call.filters:
            data = await each.events(data)
        return data

    async def _done(self, send: Send) -> None:
        await send({"type": "http.response.body", "body": await self._filtered(b"data: [DONE]\n\n")})

    async def _usage_event(self, send: Send, event: dict[str, Any]) -> None:
        """The usage of the whole reply: the first try's prompt, and what all tries have generated."""
        if self._completion and isinstance(usage := event.get("usage"), dict):
            prompt = self._prompt or usage.get("prompt_tokens", 0)
            completion = self._completion + usage.get("completion_tokens", 0)
            told = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
            event = {**event, "usage": {**usage, **told}}
        self.call.reply.read_usage(json.dumps(event).encode())
        if not self.call.strip_usage:
            await self._event(send, event)

    async def _send_whole(self, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self.call.reply.status = status
        await send_whole(send, self.call.reply, headers, body, self.call.filters)

    async def _give_up(self, send: Send) -> None:
        self._note_reply("cut" if self.good else "fallback")
        text = "" if self.good else self.guard.fallback
        choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop"}
        await self._event(send, {**self._first, "choices": [choice]})
        if self._completion:
            await self._usage_event(send, {**self._first, "choices": [], "usage": {}})
        await self._done(send)


def _observed(guard: Guard, metrics: Metrics, call: Call, text: str) -> None:
    """Count what the guard would have turned back."""
    allowed = frozenset(word.lower() for word in guard.allow)
    drift = first_drift(text, guard.threshold, allowed)[2]
    metrics.labelled(metrics.guard_sentences, call.model, drift or "none").inc()
    metrics.labelled(metrics.guard_replies, call.model, "observed" if drift else "clean").inc()


def guard_replies(upstream: Upstream, metrics: Metrics, vllm: bool) -> Hook:
    """A hook that lets the guard answer for a persona that asks for it."""

    async def hook(call: Call) -> None:
        assert call.target
        assert call.target.persona
        assert call.payload is not None
        guard = call.target.persona.guard
        if not guard or guard.mode == "off" or call.settled or not applies(guard, call.route, call.payload):
            return
        if guard.mode == "observe":
            call.filters.append(Overheard(partial(_observed, guard, metrics, call)))
        else:
            call.answer = Guarded(upstream, metrics, guard, call, vllm).run

    return hook
