"""Filters of a reply's text: one masks personal data before its reader sees it, one only listens."""

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from personas.language import Sentences
from serve.privacy import mask
from serve.relay import parsed


class Overheard:
    """A filter that changes nothing; `told` gets each choice's whole text at the end, in a thread."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._said: dict[int, str] = {}

    async def whole(self, body: bytes) -> bytes:
        reply = parsed(body)
        for holder, name in _whole_texts(reply):
            await asyncio.to_thread(self._told, holder[name])
        return body

    async def events(self, data: bytes) -> bytes:
        for event in data.split(b"\n\n"):
            if event.startswith(b"data: {"):
                for choice in parsed(event[6:]).get("choices") or ():
                    index = choice.get("index", 0)
                    said = "".join(holder[name] for holder, name in _texts(choice, "delta"))
                    self._said[index] = self._said.get(index, "") + said
            elif event.startswith(b"data: [DONE]"):
                await self.end()
        return data

    async def end(self) -> bytes:
        said, self._said = self._said, {}
        for text in said.values():
            await asyncio.to_thread(self._told, text)
        return b""


class Masked:
    """A filter that masks personal data. A stream goes on sentence by sentence, so that no number is cut in two.

    Args:
        note: called once, when something was found.
    """

    def __init__(self, note: Callable[[], None]) -> None:
        self._note = note
        self._noted = False
        self._sentences: dict[int, Sentences] = {}

    async def whole(self, body: bytes) -> bytes:
        reply = parsed(body)
        for holder, name in _whole_texts(reply):
            holder[name] = await self._masked(holder[name])
        for choice in reply.get("choices", ()) if self._noted else ():
            choice["logprobs"] = None  # they would tell what was masked
        return orjson.dumps(reply) if self._noted else body

    async def events(self, data: bytes) -> bytes:
        made = [await self._event(event) for event in data.split(b"\n\n") if event.strip()]
        return b"".join(event + b"\n\n" for event in made if event)

    async def end(self) -> bytes:
        return b""

    async def _event(self, event: bytes) -> bytes:
        """The event with its choices' whole sentences; nothing where there is none yet."""
        if not event.startswith(b"data: {"):
            return event
        chunk = parsed(event[6:])
        held = False
        for choice in chunk.get("choices") or ():
            texts, ends = _texts(choice, "delta"), bool(choice.get("finish_reason"))
            if said := "".join(holder[name] for holder, name in texts):
                text = await self._sentence(choice.get("index", 0), said, ends)
                held = held or not (text or ends)
            elif ends:
                text = await self._sentence(choice.get("index", 0), "", True)
            else:
                continue
            _put(choice, text)
        return b"" if held and len(chunk["choices"]) == 1 else b"data: " + orjson.dumps(chunk)

    async def _sentence(self, index: int, text: str, ends: bool) -> str:
        """What can go on now: the sentences that are whole, masked."""
        splitter = self._sentences.setdefault(index, Sentences())
        whole = splitter.feed(text) + (splitter.flush() if ends else [])
        return await self._masked("".join(sentence for sentence, _ in whole)) if whole else ""

    async def _masked(self, text: str) -> str:
        made = await asyncio.to_thread(mask, text)
        if made != text and not self._noted:
            self._noted = True
            self._note()
        return made


def _whole_texts(reply: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The texts of a reply that is no stream: chat, completions or the Responses API."""
    found = [at for choice in reply.get("choices", ()) for at in _texts(choice, "message")]
    for item in reply.get("output", ()):
        parts = [part for part in item.get("content") or () if isinstance(part, dict)]
        found += [(part, "text") for part in parts if isinstance(part.get("text"), str)]
    return found


def _texts(choice: dict[str, Any], holder: str) -> list[tuple[dict[str, Any], str]]:
    """Where a choice has its text: the message's or delta's content, or a completion's own text."""
    said = choice.get(holder)
    found = [(said, "content")] if isinstance(said, dict) else []
    return [(at, name) for at, name in [*found, (choice, "text")] if isinstance(at.get(name), str)]


def _put(choice: dict[str, Any], text: str) -> None:
    """Put a text into a stream's choice, without its log probabilities."""
    if isinstance(choice.get("delta"), dict):
        choice["delta"] = {**choice["delta"], "content": text}
    else:
        choice["text"] = text
    if choice.get("logprobs"):
        choice["logprobs"] = None
