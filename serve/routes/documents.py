"""`/v1/collections`: documents of a key, or shared by all: make, list, fill, ask and remove.

A file that is uploaded is kept under `GAMYEON_HOME/uploads/<collection id>/` and read in the background; the ingest's
status says how far it is. A collection of another key is answered as if it were not there.
"""

import asyncio
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Message, Receive

from personas.errors import GamyeonError
from serve.context import DocumentsUnavailable, Library, as_api_error
from serve.errors import BadRequest, BodyTooLarge
from serve.gateway import key_of
from serve.jobs import Jobs

Result = TypeVar("Result")
Model = TypeVar("Model", bound=BaseModel)


class NewCollection(BaseModel):
    """The body of `POST /v1/collections`."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=60)
    shared: bool = Field(False, description="every key may use it; without keys every collection is shared")


class Question(BaseModel):
    """The body of `POST /v1/collections/{name}/search`."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1, max_length=4000)
    k: int = Field(10, ge=1, le=100)
    method: Literal["hybrid", "dense", "bm25"] = "hybrid"
    documents: list[Annotated[str, Field(max_length=500)]] = Field(default_factory=list, max_length=100)
    since: date | None = None
    until: date | None = None


async def _run(work: Callable[..., Result], *arguments: Any) -> Result:
    """Run blocking work in a thread; errors of `rag` become the API's."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except GamyeonError as error:
        raise as_api_error(error) from error


async def parsed(request: Request, model: type[Model], limit: int = 64 * 1024) -> Model:
    """The JSON body of a request.

    Raises:
        BadRequest: it is not what the model says.
        BodyTooLarge: more than `limit` bytes.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise BodyTooLarge(f"the request body is larger than {limit} bytes")
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadRequest(f"{where}: {first['msg']}", param=where or None) from None


def _library(request: Request) -> Library:
    library: Library = request.app.state.gamyeon.library
    return library


async def list_collections(request: Request) -> JSONResponse:
    rows = await _run(_library(request).listed, key_of(request.scope))
    return JSONResponse({"object": "list", "data": [{"object": "collection", **row} for row in rows]})


async def create_collection(request: Request) -> JSONResponse:
    asked = await parsed(request, NewCollection)
    await _run(_library(request).create, asked.name, asked.shared, key_of(request.scope))
    return JSONResponse({"object": "collection", "name": asked.name}, 201)


async def get_collection(request: Request) -> JSONResponse:
    name, key = request.path_params["name"], key_of(request.scope)
    library = _library(request)
    documents = await _run(library.documents, name, key)
    row = next(row for row in await _run(library.listed, key) if row["name"] == name)
    return JSONResponse({"object": "collection", **row, "contents": documents})


async def delete_collection(request: Request) -> Response:
    await _run(_library(request).remove, request.path_params["name"], None, key_of(request.scope))
    return Response(status_code=204)


async def delete_document(request: Request) -> Response:
    name, document = request.path_params["name"], request.path_params["document"]
    await _run(_library(request).remove, name, document, key_of(request.scope))
    return Response(status_code=204)


async def upload(request: Request) -> JSONResponse:
    """Files as `multipart/form-data`; 202 with the ingest that reads them."""
    library = _library(request)
    jobs: Jobs = request.app.state.gamyeon.jobs
    collection = await _run(library.collection, request.path_params["name"], key_of(request.scope))
    try:
        limit = library.settings.max_file_mib * 2**20
        bounded = Request(request.scope, _bounded(request.receive, limit + 2**20))
        async with bounded.form(max_files=100, max_fields=10) as form:
            files = [item for _, item in form.multi_items() if isinstance(item, UploadFile)]
            if not files:
                raise BadRequest("send files as multipart/form-data", param="file")
            names = [safe_name(file.filename or "") for file in files]
            folder = library.folder(collection)
            folder.mkdir(parents=True, exist_ok=True)
            paths = [await _save(file, folder / name) for file, name in zip(files, names, strict=True)]
    except HTTPException as error:
        raise BadRequest(f"the form cannot be read: {error.detail}") from None
    job = jobs.start(collection, paths)
    return JSONResponse({"object": "ingest", **asdict(job)}, 202)


def safe_name(name: str) -> str:
    """The file's name, NFC.

    Raises:
        BadRequest: it holds a path, control characters, or is none.
    """
    name = unicodedata.normalize("NFC", name)
    bad = any(char in "/\\" or unicodedata.category(char).startswith("C") for char in name)
    if bad or not name.strip(". ") or name.startswith(".") or len(name.encode()) > 200:
        raise BadRequest("a file's name must be a plain name, without a path", param="file")
    return name


def _bounded(receive: Receive, limit: int) -> Receive:
    """The body of an upload, as long as it is not too long: the form's parser writes to disk without end."""
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            raise BodyTooLarge(f"an upload may have {limit} bytes at most", param="file")
        return message

    return bounded


async def _save(file: UploadFile, target: Path) -> Path:
    """Write an upload beside its place and put it there in one step."""
    part = target.with_name("." + uuid.uuid4().hex)
    try:
        with part.open("wb") as out:
            while block := await file.read(2**20):
                await asyncio.to_thread(out.write, block)
        part.replace(target)
    except OSError as error:
        raise DocumentsUnavailable(f"the file cannot be stored: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    return target


async def ingest_status(request: Request) -> JSONResponse:
    name = request.path_params["name"]
    await _run(_library(request).collection, name, key_of(request.scope))
    return JSONResponse(
        {"object": "ingest", **asdict(request.app.state.gamyeon.jobs.find(name, request.path_params["id"]))}
    )


async def search(request: Request) -> JSONResponse:
    asked = await parsed(request, Question)
    name, key = request.path_params["name"], key_of(request.scope)
    only = (tuple(asked.documents), asked.since, asked.until)
    hits = await _run(_library(request).find, name, key, asked.query, asked.k, asked.method, only)
    return JSONResponse({"object": "list", "data": hits})


_ONE = "/v1/collections/{name}"
ROUTES = [
    Route("/v1/collections", list_collections),
    Route("/v1/collections", create_collection, methods=["POST"]),
    Route(_ONE, get_collection),
    Route(_ONE, delete_collection, methods=["DELETE"]),
    Route(_ONE + "/documents", upload, methods=["POST"]),
    Route(_ONE + "/documents/{document:path}", delete_document, methods=["DELETE"]),
    Route(_ONE + "/ingests/{id}", ingest_status),
    Route(_ONE + "/search", search, methods=["POST"]),
]
