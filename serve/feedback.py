"""Answers that a word may still come on, and how that word becomes a row.

A conversation is kept in memory alone, for an hour at most and within a bound of bytes, so that nothing of it is on a
disk unless its user gives feedback with consent. It is kept as the bytes that went through and read only then:
relaying costs one regular expression for the whole reply.
"""

import asyncio
import json
import re
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import Message, Send

from personas.feedback_store import Content, Feedback, FeedbackStore
from serve.call import Call, Hook
from serve.citing import Citing
from serve.errors import AnswerNotFound
from serve.prompt import Payload, said_text

_ID = re.compile(rb'"id":\s*"([^"\\]{1,200})"')
_KEEP_SECONDS = 3600.0
_KEEP_BYTES = 32 * 1024 * 1024


class Word(BaseModel):
    """The body of `POST /v1/feedback`."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=200, description="the answer's id")
    thumb: Literal["up", "down"] | None = None
    reason: str | None = Field(None, max_length=2000)
    correction: str | None = Field(None, min_length=1, max_length=16_000)
    user: str | None = Field(None, min_length=1, max_length=200)
    consent: bool = Field(False, description="whether the conversation may be kept to learn from")

    @model_validator(mode="after")
    def _says_something(self) -> "Word":
        if not {"thumb", "reason", "correction", "consent"} & self.model_fields_set:
            raise ValueError("give a thumb, a reason, a correction or consent")
        return self


@dataclass
class Kept:
    """One answer as it went through."""

    persona: str
    version: int | None
    user: str
    payload: Payload
    key: str = ""  # of the request; "" where keys are not in use
    at: float = field(default_factory=time.monotonic)
    streaming: bool = False
    status: int = 0
    raw: list[bytes] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    grounded: bool = False

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(map(len, self.raw)) + sum(len(str(m)) * 3 for m in self.payload.get("messages", []))

    def text(self) -> str:
        """The answer's text, of its first choice."""
        whole = b"".join(self.raw)
        if not self.streaming:
            return json.loads(whole)["choices"][0]["message"].get("content") or ""
        pieces = []
        for line in whole.split(b"\n"):
            if line.startswith(b"data: {"):
                choices = json.loads(line[6:]).get("choices") or [{}]
                if choices[0].get("index") == 0:
                    pieces.append(choices[0].get("delta", {}).get("content") or "")
        return "".join(pieces)

    def messages(self) -> list[dict[str, str]]:
        """What user and assistant said before the answer, as text."""
        said = self.payload.get("messages", [])
        return [
            {"role": m["role"], "content": said_text(m.get("content"))}
            for m in said
            if m.get("role") in ("user", "assistant")
        ]


class Answers:
    """The answers kept, the oldest first to go."""

    def __init__(self, keep_bytes: int = _KEEP_BYTES) -> None:
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0
        self._limit = keep_bytes

    def watch(self, send: Send, kept: Kept) -> Send:
        """A `send` that passes everything on unchanged and keeps a whole, successful answer."""

        async def watched(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                headers = dict(message["headers"])
                kept.status = message["status"]
                kept.streaming = headers.get(b"content-type", b"").startswith(b"text/event-stream")
            elif kept.status == 200:
                kept.raw.append(message.get("body", b""))
                if not message.get("more_body"):
                    whole = b"".join(kept.raw)
                    cut = kept.streaming and b"data: [DONE]" not in whole[-64:]
                    if not cut and (found := _ID.search(whole)):
                        self._keep(found[1].decode(), kept)

        return watched

    def _keep(self, answer: str, kept: Kept) -> None:
        if (same := self._kept.pop(answer, None)) is not None:  # some engines count their ids anew
            self._bytes -= same.size
        self._kept[answer] = kept
        self._bytes += kept.size
        oldest = next(iter(self._kept.values()))
        while self._kept and (self._bytes > self._limit or time.monotonic() - oldest.at > _KEEP_SECONDS):
            self._bytes -= self._kept.popitem(last=False)[1].size
            oldest = next(iter(self._kept.values()), kept)

    def get(self, answer: str, key: str, user: str | None = None) -> Kept:
        """An answer for whoever got it.

        Raises:
            AnswerNotFound: never given here, or to another key or user, or too long ago.
        """
        kept = self._kept.get(answer)
        # Ids can be guessed (vLLM makes them of the request's), and consent is for one's own conversation alone.
        theirs = kept is not None and (kept.key != key or user not in (None, kept.user))
        if kept is None or theirs or time.monotonic() - kept.at > _KEEP_SECONDS:
            raise AnswerNotFound(f"no answer '{answer[:80]}' here, or its time for feedback is over", param="id")
        return kept

    def forget(self, user: str) -> None:
        """Drop what is kept of a user."""
        for answer in [answer for answer, kept in self._kept.items() if kept.user == user]:
            self._bytes -= self._kept.pop(answer).size


def keep_answers(answers: Answers) -> Hook:
    """A hook that keeps every chat answer of a persona for feedback; nothing is learnt from the other routes."""

    async def hook(call: Call) -> None:
        assert call.target
        assert call.target.persona
        assert call.asked is not None
        if call.route != "/v1/chat/completions" or call.redirected:  # nothing is learnt from another persona's words
            return
        persona, key = call.target.persona.name, call.key.id if call.key else ""
        kept = Kept(persona, call.target.version, call.user, call.asked, key, failures=call.drifts)

        def wrap(send: Send) -> Send:
            kept.grounded = any(isinstance(each, Citing) for each in call.filters)  # passages came in by a later hook
            return answers.watch(send, kept)

        call.wraps.append(wrap)

    return hook


async def take(word: Word, key: str, answers: Answers, store: FeedbackStore) -> Feedback:
    """Store a word on a kept answer: with the conversation, masked, where the user agrees.

    Args:
        key: the id of the key that the word came with, or "".

    Raises:
        AnswerNotFound: no such answer of this key and user here any more.
    """
    kept = answers.get(word.id, key, word.user)
    content = await asyncio.to_thread(_content, word, kept) if word.consent else None
    feedback = Feedback(
        answer=word.id,
        persona=kept.persona,
        version=kept.version,
        user=kept.user,
        consent=word.consent,
        thumb=word.thumb,
        content=content,
    )
    await asyncio.to_thread(store.put, feedback)
    return feedback


def _content(word: Word, kept: Kept) -> Content:
    from serve.privacy import mask

    return Content(
        messages=[{**message, "content": mask(message["content"])} for message in kept.messages()],
        answer=mask(kept.text()),
        reason=mask(word.reason) if word.reason else None,
        correction=mask(word.correction) if word.correction else None,
        grounded=kept.grounded,
        failures=[mask(text) for text in kept.failures],
    )
