"""The door: every request gets its id, its key is checked, it is let in or told to come again, and it is recorded.

Plain ASGI. The routes that generate go straight to `Generate`; all others are Starlette's.
"""

import asyncio
import itertools
import json
import logging
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access import Access, Key
from serve.call import Call, Record
from serve.errors import ApiError, Forbidden, MethodNotAllowed, Overloaded, RateLimited
from serve.metrics import Metrics
from serve.routes.generate import ROUTES
from serve.settings import Settings

log = logging.getLogger(__name__)
Endpoint = Callable[[Scope, Receive, Send, Call], Awaitable[None]]
_OPEN = frozenset(("/health", "/ready", "/openapi.json"))
# The scope that a path needs, by its beginning; `any`: whatever key. What is not listed needs `chat`.
_SCOPES = (
    ("/admin", "admin"),
    ("/metrics", "admin"),
    ("/v1/collections", "documents"),
    ("/v1/embeddings", "documents"),
    ("/v1/models", "any"),
)
_LOOPBACK = frozenset(("127.0.0.1", "localhost", "::1", "testserver"))
_START = secrets.token_hex(4)
_COUNT = itertools.count(1)


def scope_for(path: str) -> str:
    """The scope that a key needs for a path."""
    return next((scope for start, scope in _SCOPES if path == start or path.startswith(start + "/")), "chat")


def key_of(scope: Scope) -> Key | None:
    """The key that a request to a Starlette route came with; None where keys are not in use."""
    key: Key | None = scope["gamyeon.key"]
    return key


def from_a_page(headers: dict[bytes, bytes]) -> bool:
    """Whether a page of another site asks through its reader's browser (CSRF, DNS rebinding).

    Without keys, being on this machine is all that a request has to show, so it must not come from such a page.
    """
    origin = headers.get(b"origin")
    names = [
        headers.get(b"host", b"127.0.0.1").decode("latin-1"),
        origin.decode("latin-1") if origin else "//localhost",
    ]
    for name in names:
        try:
            host = urlsplit(name if "//" in name else "//" + name).hostname
        except ValueError:
            return True
        if host not in _LOOPBACK:
            return True
    return False


class Gateway:
    """The ASGI application."""

    def __init__(
        self, settings: Settings, access: Access, metrics: Metrics, generate: Endpoint, other: ASGIApp
    ) -> None:
        self._settings = settings
        self._access = access
        self._metrics = metrics
        self._generate = generate
        self._other = other
        self._generates = frozenset(ROUTES)
        self.running: dict[str, Call] = {}
        self.records: list[Record] = []
        self.begin: Callable[[Call, dict[bytes, bytes]], None] | None = None  # of a trace

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        call = Call(f"{_START}{next(_COUNT):08x}", scope["path"], monotonic())
        call.headers.append((b"x-request-id", call.id.encode()))
        try:
            await self._admit(scope, receive, send, call)
        except ApiError as error:
            await self._refuse(error, call, send)
        except Exception:
            log.exception("request %s failed", call.id)
            await self._refuse(ApiError("internal error"), call, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send, call: Call) -> None:
        headers = dict(scope["headers"])
        path = call.route
        # As written, not only as decoded: `%2f` is no slash to a proxy in front that guards some paths.
        generates = path in self._generates and len(scope["raw_path"]) == len(path)
        if path not in _OPEN:
            call.client = client = scope["client"][0] if scope.get("client") else ""
            needed = "chat" if generates else scope_for(path)
            call.key = await self._access.check(headers.get(b"authorization", b""), needed, client)
            if call.key is None and from_a_page(headers):
                raise Forbidden(
                    "without API keys only programs on this machine are answered; run: serve keys create NAME"
                )
        if not generates:
            await self._answer_other(scope, receive, send, call)
            return
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['method']} is not allowed on {path}")
        await self._answer(scope, receive, send, call, headers)

    async def _answer(
        self, scope: Scope, receive: Receive, send: Send, call: Call, headers: dict[bytes, bytes]
    ) -> None:
        if len(self.running) >= self._settings.max_in_flight:
            raise Overloaded("the gateway has as much work as it takes; ask again", retry_after=1)
        if call.key is not None:
            call.key.enter()
        call.abort = scope["state"].get("abort") if "state" in scope else None
        call.extra = f"x-request-id: {call.id}\r\n"
        if self.begin is not None:
            self.begin(call, headers)
        self.running[call.id] = call
        self._metrics.in_flight.inc()
        try:
            await self._generate(scope, receive, send, call)
        except ApiError as error:
            call.reply.status = error.status
            raise
        except Exception:
            call.reply.status = 500
            raise
        finally:
            del self.running[call.id]
            self._metrics.in_flight.dec()
            reply = call.reply
            if call.key is not None:
                call.key.leave(reply.prompt_tokens + reply.completion_tokens)
            for record in self.records:
                record(call)

    async def _answer_other(self, scope: Scope, receive: Receive, send: Send, call: Call) -> None:
        scope["gamyeon.key"] = call.key

        async def with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *call.headers]
                call.reply.started = True
            await send(message)

        if call.key is None:
            await self._other(scope, receive, with_id)
            return
        call.key.enter()
        try:
            await self._other(scope, receive, with_id)
        finally:
            call.key.leave(0)

    async def _refuse(self, error: ApiError, call: Call, send: Send) -> None:
        if isinstance(error, RateLimited) or error.status in (401, 403):
            self._metrics.labelled(self._metrics.refused, error.code or "").inc()
        if call.reply.started:
            log.warning("request %s ended after its reply had begun: %s", call.id, error.message)
            return
        body = error.body()
        headers = [*call.headers, (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(name.encode(), value.encode()) for name, value in error.headers().items()]
        await send({"type": "http.response.start", "status": error.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def page_key(self) -> str:
        """A key for the chat page that this process starts; it dies with the process."""
        return self._access.own_key("page", frozenset(("chat", "documents")))

    async def end_slow_readers(self) -> None:
        """End, until cancelled, connections whose client has left a reply unread for too long."""
        while True:
            await asyncio.sleep(min(1.0, self._settings.slow_seconds / 4))
            now = monotonic()
            for call in list(self.running.values()):
                since = call.reply.sending_since
                if since and now - since > self._settings.slow_seconds and call.abort:
                    log.warning("request %s: its client does not read; ended", call.id)
                    call.abort()


def log_call(settings: Settings) -> Record:
    """A JSON line for each request, without its content unless asked."""
    out = logging.getLogger("serve.requests")

    def record(call: Call) -> None:
        ended = monotonic()
        reply = call.reply
        line: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "id": call.id, "key": call.key.id if call.key else None, "route": call.route, "model": call.model,
            "status": reply.status, "stream": call.stream, "seconds": round(ended - call.began, 4),
            "first_seconds": round(reply.first - call.began, 4) if reply.first else None,
            "prompt_tokens": reply.prompt_tokens, "completion_tokens": reply.completion_tokens,
        }  # fmt: skip
        if settings.log_content:
            line["asked"] = call.asked
        out.info(json.dumps(line, ensure_ascii=False))

    return record


def count_call(metrics: Metrics) -> Record:
    """Metrics of a request that has ended."""

    def record(call: Call) -> None:
        model, reply = call.model, call.reply
        ended = monotonic()
        metrics.labelled(metrics.requests, call.route, model, str(reply.status)).inc()
        metrics.labelled(metrics.duration, call.route).observe(ended - call.began)
        tokens = reply.completion_tokens or max(0, reply.events - 1)
        if reply.prompt_tokens:
            metrics.labelled(metrics.tokens, model, "prompt").inc(reply.prompt_tokens)
        if tokens:
            metrics.labelled(metrics.tokens, model, "completion").inc(tokens)
        if reply.first:
            metrics.labelled(metrics.first, model).observe(reply.first - call.began)
            if tokens > 1:
                metrics.labelled(metrics.token, model).observe((ended - reply.first) / (tokens - 1))

    return record
