"""Questions to any OpenAI-compatible model: concurrent, within its rate limits and a budget, no answer paid twice."""

import asyncio
import contextlib
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx

from personas.lang import say
from tune.data_tools.journal import Answer, Journal, key_of
from tune.formats.base import DataError, Message

Item = TypeVar("Item")
OPENAI = "https://api.openai.com/v1"
_RETRIED = frozenset({408, 409, 429, 500, 502, 503, 504})
_TRIES = 8
_LONGEST = 60.0  # seconds of our own choosing; a server's Retry-After may be longer
_MILLION = 1_000_000


class BudgetError(DataError):
    """The budget does not allow another request."""


@dataclass(frozen=True)
class Endpoint:
    """A model behind an address, and its terms.

    Attributes:
        url: with `/v1`, without `/chat/completions`.
        price_in: US dollars for a million prompt tokens.
        price_out: for a million answer tokens.
        budget: US dollars that all requests of one output may cost together; 0: no limit.
        temperature: of the first attempt at an answer.
        timeout: seconds for one answer.
    """

    model: str
    url: str = OPENAI
    concurrency: int = 8
    price_in: float = 0.0
    price_out: float = 0.0
    budget: float = 0.0
    temperature: float = 0.0
    timeout: float = 120.0

    def key(self, messages: list[Message], attempt: int) -> bytes:
        """What a request's answer is kept under."""
        return key_of(self.model, self.temperature, messages, attempt)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """US dollars."""
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / _MILLION


class Asker:
    """Asks one endpoint; answers come from the journal where they are there."""

    def __init__(self, endpoint: Endpoint, journal: Journal, client: httpx.AsyncClient) -> None:
        self._endpoint, self._journal, self._client = endpoint, journal, client
        self._pending: dict[bytes, asyncio.Future[Answer]] = {}
        self._reserved = 0.0  # dollars that requests under way may cost at most
        self._not_before = 0.0  # monotonic; the server asked everybody to wait until then
        self._limit_field = "max_tokens"

    async def __call__(self, messages: list[Message], max_tokens: int, attempt: int = 0) -> Answer:
        """The answer to these messages; a later attempt is asked anew, at a higher temperature.

        Raises:
            BudgetError: it might cost more than is left.
            DataError: the server refuses, or cannot be reached after all tries.
        """
        key = self._endpoint.key(messages, attempt)
        if found := self._journal.get(key):
            return found
        if key in self._pending:
            return await self._pending[key]
        self._pending[key] = future = asyncio.get_running_loop().create_future()
        try:
            answer = await self._paid(messages, max_tokens, attempt)
            self._journal.add(key, answer)
            future.set_result(answer)
            return answer
        except BaseException as error:
            future.set_exception(error)
            future.exception()  # seen, even where nobody else waits
            raise
        finally:
            del self._pending[key]

    async def _paid(self, messages: list[Message], max_tokens: int, attempt: int) -> Answer:
        with self._reserve(messages, max_tokens):
            first = self._endpoint.temperature
            body = {"model": self._endpoint.model, "messages": messages, "temperature": max(first, 0.7 * (attempt > 0))}
            reply = await self._post(body, max_tokens)
        try:
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            text = choice["message"]["content"] or ""
        except (KeyError, IndexError, TypeError):
            raise DataError(
                f"{self._endpoint.url}: " + say("OpenAI 형식의 답이 아닙니다", "not an OpenAI-style answer")
            ) from None
        prompt_tokens = usage.get("prompt_tokens", _size(messages))  # where they are not told: the most it can be
        completion_tokens = usage.get("completion_tokens", len(text.encode()))
        return Answer(text, prompt_tokens, completion_tokens, cut_off=choice.get("finish_reason") == "length")

    @contextlib.contextmanager
    def _reserve(self, messages: list[Message], max_tokens: int) -> Iterator[None]:
        """Set money aside for a request before it is made: a token is at least a byte, so this is the most it costs."""
        most = self._endpoint.cost(_size(messages), max_tokens)
        spent = self._endpoint.cost(self._journal.prompt_tokens, self._journal.completion_tokens)
        budget = self._endpoint.budget
        if budget and spent + self._reserved + most > budget:
            raise BudgetError(
                say(
                    f"예산 ${budget:g} 중 ${spent:.4f}를 썼고, 다음 요청이 넘칠 수 있어 멈췄습니다",
                    f"stopped at ${spent:.4f} of ${budget:g}: the next request might go over",
                ),
                say(
                    "--budget을 늘려 같은 명령을 다시 하면 이어서 합니다",
                    "raise --budget and run the same command to go on",
                ),
            )
        self._reserved += most
        try:
            yield
        finally:
            self._reserved -= most

    async def _post(self, body: dict[str, Any], max_tokens: int) -> Any:
        problem, tried = "", 0.0
        while tried < _TRIES:
            await asyncio.sleep(max(0.0, self._not_before - time.monotonic()))
            wait: float | None = None
            try:
                reply = await self._client.post("chat/completions", json={**body, self._limit_field: max_tokens})
            except httpx.TransportError as error:
                problem = str(error) or type(error).__name__
            else:
                if reply.status_code == 200:
                    return _json_of(reply, self._endpoint.url)
                problem = _problem(reply)
                if reply.status_code == 400 and "max_completion_tokens" in problem:
                    self._limit_field = "max_completion_tokens"
                    continue
                if reply.status_code not in _RETRIED or "insufficient_quota" in reply.text:
                    break
                wait = _retry_after(reply.headers.get("retry-after", ""))
                if wait is not None:
                    self._not_before = max(self._not_before, time.monotonic() + wait)
                    tried += 0.1  # a server that says when to come back is met with more patience
            if wait is None:
                await asyncio.sleep(min(_LONGEST, 2**tried) * random.uniform(0.5, 1.0))  # noqa: S311
                tried += 1
        raise DataError(
            f"{self._endpoint.url}: {problem}",
            say(
                "받은 답은 남아 있습니다. 고친 뒤 같은 명령을 다시",
                "answers so far are kept; mend it, run the same command",
            ),
        )


def _size(messages: list[Message]) -> int:
    """Tokens that a prompt has at most: one a byte, and the template's around each message."""
    return sum(len(one["content"].encode()) + 16 for one in messages)


def _json_of(reply: httpx.Response, url: str) -> Any:
    try:
        return reply.json()
    except ValueError:
        raise DataError(f"{url}: " + say("JSON이 아닌 답입니다", "the answer is not JSON")) from None


def _problem(reply: httpx.Response) -> str:
    """Status and message; a key that a server repeats in it is taken out."""
    try:
        message = str(reply.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = reply.text
    key = reply.request.headers.get("authorization", "").removeprefix("Bearer ")
    return f"{reply.status_code} {message.replace(key, '***') if key else message}"[:300]


def _retry_after(value: str) -> float | None:
    """Seconds that a server asks to wait: a number, or an HTTP date."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


async def ask_all(
    endpoint: Endpoint, journal: Journal, items: Iterable[Item], work: Callable[[Item, Asker], Awaitable[None]]
) -> None:
    """Do the work for every item, `endpoint.concurrency` at a time; items are taken as they are needed.

    After an error nothing new is begun, but requests under way are waited for: they are paid.

    Raises:
        DataError: the first error.
    """
    errors: list[DataError] = []
    waiting = iter(items)
    headers = {"Authorization": f"Bearer {key}"} if (key := os.environ.get("OPENAI_API_KEY")) else {}
    limits = httpx.Limits(max_connections=endpoint.concurrency)
    address = endpoint.url.rstrip("/") + "/"
    async with httpx.AsyncClient(base_url=address, headers=headers, timeout=endpoint.timeout, limits=limits) as client:
        asker = Asker(endpoint, journal, client)

        async def worker() -> None:
            for item in waiting:
                if errors:
                    return
                try:
                    await work(item, asker)
                except DataError as error:
                    errors.append(error)

        await asyncio.gather(*(worker() for _ in range(endpoint.concurrency)))
    if errors:
        raise errors[0]
