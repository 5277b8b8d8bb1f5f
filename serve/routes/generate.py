"""`/v1/chat/completions`, `/v1/completions` and `/v1/responses`: the hot path.

A request to the bare base goes on byte for byte. A request to a persona is parsed, gets the persona's prompt and
sampling, passes the hooks (documents, guard) and goes on as new JSON.
"""

import asyncio
from time import monotonic
from typing import Any

import msgspec
import orjson
from starlette.types import Receive, Scope, Send

from serve.call import Call, Hook
from serve.catalog import Catalog
from serve.errors import BadRequest, BodyTooLarge, EngineLost, RequestTimeout
from serve.prompt import for_persona
from serve.relay import relay
from serve.settings import Settings
from serve.upstream import Upstream

ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
_USAGE_ASKED = b'"stream_options":{"include_usage":true},'


class Head(msgspec.Struct):
    """The few fields of a request that the gateway itself looks at; the rest is skipped, not built."""

    model: Any = None
    stream: Any = None
    stream_options: Any = None
    n: Any = None
    best_of: Any = None
    prompt: Any = None
    user: Any = None


_HEAD = msgspec.json.Decoder(Head)


async def read_body(scope: Scope, receive: Receive, limit: int, seconds: float) -> bytes | None:
    """The request's body, or None if the client went away.

    Raises:
        BodyTooLarge: more than `limit` bytes, whether announced or sent.
        RequestTimeout: it did not come in time.
    """
    too_large = f"the request body is larger than {limit} bytes"
    for name, value in scope["headers"]:
        if name == b"content-length" and int(value) > limit:  # the parser lets digits through alone
            raise BodyTooLarge(too_large)
    try:
        async with asyncio.timeout(seconds):
            message = await receive()
            parts: list[bytes] = []
            size = 0
            while message["type"] == "http.request":
                part = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(too_large)
                if not message.get("more_body"):
                    return b"".join([*parts, part]) if parts else part
                parts.append(part)
                message = await receive()
    except TimeoutError:
        raise RequestTimeout(f"the request body did not come within {seconds:g} s") from None
    return None


def read_head(body: bytes) -> Head:
    """The request's fields that matter here.

    Raises:
        BadRequest: not JSON, not an object, or no model.
    """
    try:
        if not body.isascii():
            body.decode()  # msgspec does not look into the fields that it skips
        head = _HEAD.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        read_payload(body)  # says what is wrong by line and column
        raise BadRequest(f"the request body is not a JSON object that can be served: {error}") from None
    if not isinstance(head.model, str):
        raise BadRequest("you must provide a model parameter", param="model")
    return head


def read_payload(body: bytes) -> dict[str, Any]:
    """The whole JSON of a request whose head was read.

    Raises:
        BadRequest: bad UTF-8, half a surrogate pair, NaN, a number without bounds, or too deep.
    """
    try:
        payload: dict[str, Any] = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the request body is not valid JSON: {error}") from None
    return payload


def ambiguous(body: bytes) -> bool:
    """Whether two parsers could read another model from these bytes: the key twice, or written with escapes."""
    return body.count(b'"model"') != 1 or b"\\u00" in body


def count_choices(head: Head) -> int:
    """How many answers a request asks for: `n` (or `best_of`) for each of its prompts."""
    most = 1
    for value in (head.n, head.best_of):
        if isinstance(value, int | float | str):
            try:
                most = max(most, int(float(value)))  # the engine, too, takes "3" for 3
            except (ValueError, OverflowError):
                continue
    prompts = head.prompt if isinstance(head.prompt, list) else []
    if prompts and isinstance(prompts[0], int):  # one prompt as token ids
        return most
    return most * max(1, len(prompts))


class Generate:
    """Hands a request to the engine, with what persona and hooks add. `hooks` is where others come in."""

    def __init__(self, upstream: Upstream, catalog: Catalog, settings: Settings) -> None:
        self._upstream = upstream
        self._catalog = catalog
        self._settings = settings
        self.hooks: list[Hook] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send, call: Call) -> None:
        body = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_seconds)
        if body is None:
            return
        task = asyncio.current_task()
        assert task
        watcher = asyncio.create_task(_leave_with_client(receive, task))
        try:
            await self._answer(body, call, send)
        except asyncio.CancelledError:
            if not watcher.done():  # the gateway stops
                await _stopping(call, send)
                raise
            task.uncancel()
            call.reply.status = 499
        finally:
            watcher.cancel()

    async def _answer(self, body: bytes, call: Call, send: Send) -> None:
        body, call.strip_usage = await self._prepare(body, call)
        call.stages.append(("prepare", monotonic()))
        for wrap in call.wraps:
            send = wrap(send)
        if call.answer is not None:
            await call.answer(send)
            call.stages.append(("reply", monotonic()))
            return
        backend, wire = await self._upstream.ask(call.route, body, call.extra)
        call.stages.append(("engine", monotonic()))
        try:
            await relay(wire, send, call.reply, call.headers, call.filters, call.strip_usage)
        finally:
            self._upstream.done(backend, wire)
            call.stages.append(("reply", monotonic()))

    async def _prepare(self, body: bytes, call: Call) -> tuple[bytes, bool]:
        """The body for the engine, and whether its usage event is ours alone."""
        head = read_head(body)
        if count_choices(head) > self._settings.max_choices:
            most = self._settings.max_choices
            raise BadRequest(f"a request may ask for {most} answers at most (n times prompts)", param="n")
        call.name, call.stream = head.model, bool(head.stream)
        if call.key is not None:
            call.key.may_ask(head.model.partition("@")[0])
        call.asked_user = head.user if isinstance(head.user, str) else ""
        call.target = target = await self._catalog.resolve(head.model, call.user)
        asks_usage = isinstance(head.stream_options, dict) and bool(head.stream_options.get("include_usage"))
        add_usage = call.stream and not asks_usage and call.route != "/v1/responses"
        if target.persona is None:
            return self._bare(body, call, head, add_usage)
        call.asked = read_payload(body)
        own = self._catalog.own_engine
        call.payload = for_persona(call.asked, target.persona, target.engine_model, call.route, own)
        if add_usage:
            call.payload["stream_options"] = {**(head.stream_options or {}), "include_usage": True}
        for hook in self.hooks:
            await hook(call)
        return orjson.dumps(call.payload), add_usage

    def _bare(self, body: bytes, call: Call, head: Head, add_usage: bool) -> tuple[bytes, bool]:
        """A request to the base: its own bytes, unless they can be read in two ways or its tokens must be counted."""
        if ambiguous(body):
            body = orjson.dumps(read_payload(body))
        # Without a key nobody is billed, and the bytes stay as they are.
        if not (add_usage and call.key is not None):
            return body, False
        if head.stream_options is None and b'"stream_options"' not in body:
            return b"{" + _USAGE_ASKED + body[body.index(b"{") + 1 :], True
        payload = read_payload(body)
        options = payload.get("stream_options")
        payload["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        return orjson.dumps(payload), True


async def _leave_with_client(receive: Receive, task: asyncio.Task[Any]) -> None:
    """End a request whose client has gone, wherever it waits; the engine then stops generating, too."""
    while (await receive())["type"] != "http.disconnect":
        pass
    task.cancel()


async def _stopping(call: Call, send: Send) -> None:
    """The last words of a reply that the gateway's own end cuts short."""
    error = EngineLost("the gateway stops; the reply is incomplete, ask again")
    call.reply.status = error.status
    if call.reply.started and call.stream:
        await send({"type": "http.response.body", "body": b"data: " + error.body() + b"\n\n"})
