"""`/admin/personas/…`: versions and moves, the same as `personas versions | promote | canary | rollback | diff`.

The gateway has checked the key's scope, or that a program of this machine asks.
"""

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from personas.adapters import read_manifest, version_id
from personas.errors import AdapterError, RegistryError
from personas.registry import Registry
from personas.versions_cli import differences
from serve.catalog import Catalog
from serve.errors import BadRequest, Conflict, ModelNotFound
from serve.gateway import key_of
from serve.routes.admin import read_small

_M = TypeVar("_M", bound=BaseModel)
_Why = Annotated[str, StringConstraints(max_length=500)]


class Move(BaseModel):
    """The body of `POST /admin/personas/{name}/rollback`."""

    model_config = ConfigDict(extra="forbid")
    why: _Why = ""


class ToErase(BaseModel):
    """The body of `POST /admin/feedback/erase`."""

    model_config = ConfigDict(extra="forbid")
    user: str = Field(min_length=1, max_length=200)


class ToVersion(Move):
    """The body of `POST /admin/personas/{name}/promote`."""

    version: int = Field(ge=1, le=999_999)


class ToCanary(ToVersion):
    """The body of `POST /admin/personas/{name}/canary`."""

    weight: float = Field(ge=0, le=100, description="percent of the users")


def who_asks(request: Request) -> str:
    """The name in the history: the key's, or `admin-api` where keys are not in use."""
    key = key_of(request.scope)
    return key.name if key else "admin-api"


async def _read(request: Request, form: type[_M]) -> _M:
    try:
        return form.model_validate_json(await read_small(request) or b"{}")
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or None
        raise BadRequest(f"{field or 'body'}: {first['msg']}", param=field) from error


def _state(catalog: Catalog, persona: str) -> JSONResponse:
    registry = catalog.registry
    route = registry.route(persona)
    return JSONResponse(
        {
            "persona": persona,
            "live": route.live,
            "canary": {"version": route.canary, "weight": route.weight} if route.canary else None,
            "versions": registry.versions(persona),
            "history": [asdict(move) for move in registry.history(persona)],
        }
    )


def _known(request: Request) -> tuple[Catalog, str]:
    catalog: Catalog = request.app.state.gamyeon.catalog
    return catalog, catalog.persona(request.path_params["name"]).name


async def _move(request: Request, move: Callable[[Registry], object]) -> None:
    """Make a move in a thread, over a connection of its own: it may have to wait for the database, and replies,
    which read the registry, must neither wait with it nor see it half done."""

    def work() -> None:
        with closing(Registry(request.app.state.gamyeon.settings.home.database)) as registry:
            move(registry)

    try:
        await asyncio.to_thread(work)
    except RegistryError as error:
        raise Conflict(error.message, param="version") from error


async def show(request: Request) -> JSONResponse:
    """Live version, canary, versions and history of a persona."""
    return _state(*_known(request))


async def promote(request: Request) -> JSONResponse:
    """`{"version": 3, "why": "…"}`: make a version live."""
    who, move = who_asks(request), await _read(request, ToVersion)
    catalog, persona = _known(request)
    await catalog.check(persona, move.version)
    await _move(request, lambda registry: registry.promote(persona, move.version, who, move.why))
    return _state(catalog, persona)


async def canary(request: Request) -> JSONResponse:
    """`{"version": 3, "weight": 10, "why": "…"}`: a share of the users gets a version; weight 0 ends it."""
    who, move = who_asks(request), await _read(request, ToCanary)
    catalog, persona = _known(request)
    await catalog.check(persona, move.version)
    await _move(request, lambda registry: registry.canary(persona, move.version, move.weight, who, move.why))
    return _state(catalog, persona)


async def rollback(request: Request) -> JSONResponse:
    """`{"why": "…"}`: end the canary, else go back to the version before."""
    who, move = who_asks(request), await _read(request, Move)
    catalog, persona = _known(request)
    await _move(request, lambda registry: registry.rollback(persona, who, move.why))
    return _state(catalog, persona)


async def diff(request: Request) -> JSONResponse:
    """`?a=1&b=2`: what differs between two versions."""
    catalog, persona = _known(request)
    try:
        numbers = [int(request.query_params[key]) for key in ("a", "b")]
    except (KeyError, ValueError) as error:
        raise BadRequest("a and b must be version numbers: ?a=1&b=2") from error
    try:
        a, b = (read_manifest(catalog.store.folder(persona, number)) for number in numbers)
    except AdapterError as error:
        raise ModelNotFound(f"no such version of '{persona}'", param="a") from error
    found: dict[str, tuple[Any, Any]] = differences(a, b)
    names = [version_id(persona, number) for number in numbers]
    return JSONResponse({"versions": names, "differences": {key: list(pair) for key, pair in found.items()}})


async def erase_feedback(request: Request) -> JSONResponse:
    """`{"user": "…"}`: everything of a user's feedback goes, from the database and from this gateway's memory."""
    form = await _read(request, ToErase)
    request.app.state.gamyeon.answers.forget(form.user)
    deleted, left = await asyncio.to_thread(request.app.state.gamyeon.feedback.erase, form.user)
    return JSONResponse({"deleted": deleted, "left": left})


ROUTES = [
    Route("/admin/feedback/erase", erase_feedback, methods=["POST"]),
    Route("/admin/personas/{name}", show),
    Route("/admin/personas/{name}/promote", promote, methods=["POST"]),
    Route("/admin/personas/{name}/canary", canary, methods=["POST"]),
    Route("/admin/personas/{name}/rollback", rollback, methods=["POST"]),
    Route("/admin/personas/{name}/diff", diff),
]
