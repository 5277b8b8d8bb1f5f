"""`/admin`: keys, usage and what the gateway is doing. Needs the scope `admin` where keys are in use."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serve.access import SCOPES, Limits, Scope
from serve.errors import ApiError, BadRequest, BodyTooLarge

_MOST = 2**53
Count = Annotated[int, Field(ge=1, le=_MOST, strict=True)]


class KeyNotFound(ApiError):
    """No such key."""

    status = 404
    type = "invalid_request_error"
    code = "key_not_found"


class NewKey(BaseModel):
    """The body of `POST /admin/keys`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    scopes: list[Scope] = Field(["chat"], min_length=1, max_length=len(SCOPES))
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None
    personas: list[Annotated[str, Field(max_length=200)]] | None = Field(None, max_length=100)

    def limits(self) -> Limits:
        personas = tuple(self.personas) if self.personas is not None else None
        return Limits(self.requests_per_minute, self.tokens_per_minute, self.concurrency, personas)


async def _body(request: Request) -> bytes:
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > 64 * 1024:
            raise BodyTooLarge("the request body is larger than 65536 bytes")
    return body


async def list_keys(request: Request) -> JSONResponse:
    keys = await asyncio.to_thread(request.app.state.gamyeon.access.store.all)
    return JSONResponse({"object": "list", "data": [key.shown() for key in keys.values()]})


async def create_key(request: Request) -> JSONResponse:
    """The secret is in this answer and nowhere else."""
    try:
        asked = NewKey.model_validate_json(await _body(request))
        asked.name.encode()
    except (ValidationError, UnicodeEncodeError) as error:
        faults = error.errors() if isinstance(error, ValidationError) else []
        where = ".".join(str(part) for part in faults[0]["loc"]) if faults else "name"
        raise BadRequest(f"{where}: {faults[0]['msg'] if faults else 'not text'}", param=where or None) from None
    access = request.app.state.gamyeon.access
    secret, key = await asyncio.to_thread(access.store.create, asked.name, frozenset(asked.scopes), asked.limits())
    await asyncio.to_thread(access.reload)
    return JSONResponse({**key.shown(), "key": secret}, 201)


async def revoke_key(request: Request) -> Response:
    access = request.app.state.gamyeon.access
    if not await asyncio.to_thread(access.store.revoke, request.path_params["id"]):
        raise KeyNotFound("no such key in use")
    await asyncio.to_thread(access.reload)
    return Response(status_code=204)


async def show_usage(request: Request) -> JSONResponse:
    days = request.query_params.get("days", "30")
    if not (days.isascii() and days.isdigit() and 1 <= int(days[:6]) <= 3660):
        raise BadRequest("days must be a number from 1 to 3660", param="days")
    usage = request.app.state.gamyeon.usage
    await asyncio.to_thread(usage.flush)
    return JSONResponse({"object": "list", "data": await asyncio.to_thread(usage.rows, int(days))})


async def show_status(request: Request) -> JSONResponse:
    state = request.app.state.gamyeon
    backends: list[dict[str, Any]] = [
        {"url": b.url, "in_flight": b.in_flight, "connections": len(b.wires), "failures": b.failures}
        for b in state.upstream.backends
    ]
    live = {name: state.catalog.registry.live(name) for name in state.catalog.names() if "@" not in name}
    return JSONResponse(
        {"engine": asdict(state.engine.status), "backends": backends, "keys": state.access.required, "live": live}
    )


ROUTES = [
    Route("/admin/keys", list_keys),
    Route("/admin/keys", create_key, methods=["POST"]),
    Route("/admin/keys/{id}", revoke_key, methods=["DELETE"]),
    Route("/admin/usage", show_usage),
    Route("/admin/status", show_status),
]
