"""The page's view of the gateway: how far the engine is, who can speak, and a streamed reply."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessageParam


@dataclass(frozen=True)
class Speaker:
    """A persona as the gateway shows it."""

    name: str
    title: str
    description: str
    greeting: str
    questions: list[str]
    version: int | None


@dataclass(frozen=True)
class EngineState:
    """`state` is the gateway's word (`ready`, `starting`, …) or `unreachable`; `percent` of a start, 0 to 100."""

    state: str
    percent: int
    text: str

    @property
    def ready(self) -> bool:
        return self.state == "ready"


@dataclass(frozen=True)
class Piece:
    """A piece of a reply: the answer's id, its next text, and the passages that it was given, known at its end."""

    answer: str
    text: str
    citations: list[dict[str, Any]]


class Gateway:
    """A gateway's HTTP address.

    Args:
        url: without `/v1`.
        key: sent as a bearer token; any text where the gateway asks for none.
    """

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=10, headers={"authorization": f"Bearer {key}"})
        self._openai = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=600)

    async def engine(self) -> EngineState:
        """How far the engine is; never raises."""
        try:
            status = (await self._http.get("/ready")).json()
            return EngineState(status["state"], status["percent"], status["text"])
        except (httpx.HTTPError, ValueError, KeyError):
            return EngineState("unreachable", 0, "")

    async def speakers(self) -> list[Speaker]:
        """Personas by their public names.

        Raises:
            httpx.HTTPError: the gateway does not answer.
        """
        reply = await self._http.get("/v1/models")
        reply.raise_for_status()
        cards: list[dict[str, Any]] = reply.json()["data"]
        return [Speaker(card["id"], **card["persona"]) for card in cards if "persona" in card and "@" not in card["id"]]

    async def reply(self, name: str, messages: list[ChatCompletionMessageParam], user: str) -> AsyncIterator[Piece]:
        """The reply, piece by piece; closing the iterator ends the request.

        Raises:
            openai.OpenAIError: refused, or cut off in mid-stream.
        """
        asked = self._openai.chat.completions.create(model=name, messages=messages, user=user, stream=True)
        async with await asked as stream:
            async for chunk in stream:
                text = chunk.choices[0].delta.content if chunk.choices else None
                citations = (chunk.model_extra or {}).get("citations") or []
                if text or citations:
                    yield Piece(chunk.id, text or "", citations)

    async def feedback(self, answer: str, user: str, consent: bool, **said: str) -> bool:
        """Send a thumb or a correction; whether it was taken."""
        word = {"id": answer, "user": user, "consent": consent, **said}
        try:
            return (await self._http.post("/v1/feedback", json=word)).status_code == 200
        except httpx.HTTPError:
            return False
