"""`/v1/chat/completions` and `/v1/completions`."""

import json
from typing import Any

from starlette.types import Receive, Scope, Send

from serve.catalog import Catalog
from serve.errors import BadRequest, BodyTooLarge
from serve.feedback import Answers, Kept
from serve.guard import Guarded, applies
from serve.prompt import for_persona
from serve.upstream import Upstream, relay, while_connected


async def read_body(scope: Scope, receive: Receive, limit: int) -> bytes | None:
    """The request's body, or None if the client went away.

    Raises:
        BodyTooLarge: more than `limit` bytes, whether announced or sent.
    """
    announced = dict(scope["headers"]).get(b"content-length", b"0")
    too_large = BodyTooLarge(f"the request body is larger than {limit} bytes")
    if announced.isdigit() and int(announced) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def parse_payload(body: bytes) -> tuple[dict[str, Any], str]:
    """The JSON object of a request and the model that it names.

    Raises:
        BadRequest: not JSON, not an object, or no model.
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"the request body is not valid JSON: {error}") from error
    if not isinstance(payload, dict):
        raise BadRequest("the request body must be a JSON object")
    model = payload.get("model")
    if not isinstance(model, str):
        raise BadRequest("you must provide a model parameter", param="model")
    return payload, model


def user_of(scope: Scope, payload: dict[str, Any]) -> str:
    """Who asks: the request's `user` field, else the key it came with, else the client's address."""
    if isinstance(user := payload.get("user"), str) and user:
        return user
    key = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
    return key if key not in ("", "Bearer none") else (scope.get("client") or ("",))[0]


class Generate:
    """An ASGI endpoint that hands a request to the engine, with what the persona adds."""

    def __init__(self, upstream: Upstream, catalog: Catalog, answers: Answers, max_body_bytes: int) -> None:
        self._upstream = upstream
        self._catalog = catalog
        self._answers = answers
        self._limit = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(scope, receive, self._limit)
        if body is None:
            return
        payload, model = parse_payload(body)
        user = user_of(scope, payload)
        target = await self._catalog.resolve(model, user)
        if target.persona is not None:
            changed = for_persona(payload, target.persona, target.engine_model, self._catalog.own_engine)
            body = json.dumps(changed, ensure_ascii=False).encode("utf-8", "surrogatepass")
            kept = Kept(target.persona.name, target.version, user, payload)
            send = self._answers.watch(send, kept)
            guard = target.persona.guard
            if guard and applies(guard, scope["path"], changed):
                guarded = Guarded(self._upstream, guard, scope["path"], changed, kept, self._catalog.own_engine)
                await while_connected(guarded.run(send), receive)
                return
        await relay(self._upstream, scope["path"], body, receive, send)
