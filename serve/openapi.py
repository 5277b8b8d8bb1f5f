"""The OpenAPI 3.1 document of the gateway's own routes, served at `/openapi.json`.

The bodies of the generating routes are vLLM's: here stand the fields that the gateway itself looks at; all others are
passed on.
"""

from typing import Any

from pydantic import BaseModel

from serve.access import SCOPES
from serve.feedback import Word
from serve.routes.admin import NewKey
from serve.routes.documents import NewCollection, Question
from serve.routes.embeddings import Embed
from serve.routes.moderations import Moderate
from serve.routes.versions import Move, ToCanary, ToErase, ToVersion

Json = dict[str, Any]
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_KEY = {
    "type": "object",
    "required": ["id", "name", "scopes", "limits", "created", "revoked"],
    "properties": {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "scopes": {"type": "array", "items": {"enum": list(SCOPES)}},
        "limits": {"type": "object"},
        "created": {"type": "string"},
        "revoked": {"type": ["string", "null"]},
        "key": {"type": "string", "description": "the secret; only in the answer that makes it"},
    },
}
_MESSAGE = {
    "type": "object",
    "required": ["role"],
    "properties": {"role": {"type": "string"}, "content": {"type": ["string", "array", "null"]}},
}
_COMMON: Json = {
    "stream": {"type": ["boolean", "null"]},
    "n": {"type": ["integer", "null"], "minimum": 1},
}
_GENERATING: dict[str, tuple[Json, list[str]]] = {
    "/v1/chat/completions": ({"messages": {"type": "array", "items": _MESSAGE}}, ["model", "messages"]),
    "/v1/completions": ({"prompt": {"type": ["string", "array"]}}, ["model", "prompt"]),
    "/v1/responses": (
        {"input": {"type": ["string", "array"]}, "instructions": {"type": ["string", "null"]}},
        ["model", "input"],
    ),
}
_TRIES = {"400": "the request is wrong", "401": "no valid key", "403": "not for this key", "429": "a limit is reached"}
_ENGINE = {
    "404": "no such model",
    "408": "the body did not come",
    "409": "the adapter does not fit the base",
    "413": "the body is too large",
    "502": "the engine went away",
    "503": "the engine is not ready",
}


def _answers(schema: Json | None, status: str = "200", more: dict[str, str] | None = None, kind: str = "") -> Json:
    content = {"content": {kind or "application/json": {"schema": schema}}} if schema is not None else {}
    made: Json = {status: {"description": "done", **content}}
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for code, text in {**_TRIES, **(more or {})}.items():
        made[code] = {"description": text, "content": error}
    return made


def _get(summary: str, schema: Json, more: dict[str, str] | None = None, **rest: Any) -> Json:
    return {"summary": summary, "responses": _answers(schema, more=more), **rest}


def _list_of(schema: Json) -> Json:
    properties = {"object": {"const": "list"}, "data": {"type": "array", "items": schema}}
    return {"type": "object", "required": ["object", "data"], "properties": properties}


def _generate(path: str, names: list[str]) -> Json:
    properties, required = _GENERATING[path]
    model = {"anyOf": [{"enum": names}, {"type": "string"}]}
    fields: Json = {"model": model, **_COMMON, **properties}
    schema = {"type": "object", "required": required, "properties": fields}
    responses = _answers({"type": "object"}, more=_ENGINE)
    responses["200"]["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    body = {"required": True, "content": {"application/json": {"schema": schema}}}
    return {"post": {"summary": "Generate", "requestBody": body, "responses": responses}}


def _own_paths() -> Json:
    model = {"type": "object", "required": ["id", "object", "created", "owned_by"]}
    status = {"type": "object", "required": ["state", "percent", "text"]}
    name = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    ready = _get("The engine answers, or how far it is", status, security=[])
    ready["responses"]["503"] = {"description": "not yet", "content": {"application/json": {"schema": status}}}
    return {
        "/health": {"get": _get("The gateway lives", {"type": "object"}, security=[])},
        "/ready": {"get": ready},
        "/metrics": {"get": {"summary": "Prometheus", "responses": _answers({"type": "string"}, kind="text/plain")}},
        "/v1/models": {"get": _get("Names that can be asked for", _list_of(model))},
        "/v1/moderations": {
            "post": _post("Harm, insult or despair", Moderate, {"type": "object"}, _404="no such model")
        },
        "/v1/models/{id}": {"get": _get("One of them", model, {"404": "no such model"}, parameters=[name])},
    }


def _admin_paths() -> Json:
    key_id = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
    days = {"name": "days", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 3660}}
    new_key = {"required": True, "content": {"application/json": {"schema": NewKey.model_json_schema()}}}
    made = _answers(_KEY, "201", {"413": "the body is too large"})
    gone = _answers(None, "204", {"404": "no such key in use"})
    return {
        "/admin/keys": {
            "get": _get("Keys, without their values", _list_of(_KEY)),
            "post": {"summary": "A new key", "requestBody": new_key, "responses": made},
        },
        "/admin/keys/{id}": {"delete": {"summary": "Revoke", "parameters": [key_id], "responses": gone}},
        "/admin/usage": {"get": _get("Usage by key and version", _list_of({"type": "object"}), parameters=[days])},
        "/admin/status": {"get": _get("Engine, connections, live versions", {"type": "object"})},
    }


def _post(summary: str, form: type[BaseModel], answer: Json, status: str = "200", **codes: str) -> Json:
    """A POST of a form; `codes`: what `_404` and others mean here."""
    more = {"413": "the body is too large", **{code[1:]: text for code, text in codes.items()}, "503": "not now"}
    body = {"required": True, "content": {"application/json": {"schema": form.model_json_schema()}}}
    return {"summary": summary, "requestBody": body, "responses": _answers(answer, status, more)}


def _in_path(name: str) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _version_paths() -> Json:
    """Versions of a persona, and what its users thought."""
    state = {"type": "object", "required": ["persona", "live", "canary", "versions", "history"]}
    name, none, no = [_in_path("name")], "no such persona or version", "the registry cannot make this move"
    number = {"in": "query", "required": True, "schema": {"type": "integer", "minimum": 1, "maximum": 999_999}}
    both = [*name, {"name": "a", **number}, {"name": "b", **number}]
    one = "/admin/personas/{name}"
    said = {"type": "object", "required": ["object", "id", "thumb", "conversation_stored"]}
    erased = {"type": "object", "required": ["deleted", "left"]}
    return {
        "/v1/feedback": {
            "post": _post("A thumb, a correction", Word, said, _404="no such answer of this key and user")
        },
        "/admin/feedback/erase": {"post": _post("Everything of a user goes", ToErase, erased)},
        one: {"get": _get("Versions and history", state, {"404": none}, parameters=name)},
        one + "/promote": {"post": _post("Make live", ToVersion, state, _404=none, _409=no), "parameters": name},
        one + "/canary": {"post": _post("To some users", ToCanary, state, _404=none, _409=no), "parameters": name},
        one + "/rollback": {"post": _post("Undo", Move, state, _404=none, _409=no), "parameters": name},
        one + "/diff": {"get": _get("What differs", {"type": "object"}, {"404": none}, parameters=both)},
    }


def _document_paths() -> Json:
    thing, name = {"type": "object", "required": ["object"]}, [_in_path("name")]
    none, off = {"404": "no such collection, document or ingest"}, {"503": "the document store does not answer"}
    one = "/v1/collections/{name}"
    files = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
    upload = {
        "summary": "Files, read in the background",
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": files}}},
        "responses": _answers(thing, "202", {**none, **off, "413": "the upload is too large"}),
    }
    gone = _answers(None, "204", {**none, **off})
    document = {"summary": "Remove", "parameters": [*name, _in_path("document")], "responses": gone}
    return {
        "/v1/collections": {
            "get": _get("Collections that the key may use", _list_of(thing), off),
            "post": _post("A new one", NewCollection, thing, "201", _409="the name is taken"),
        },
        one: {
            "parameters": name,
            "get": _get("One, with its documents", thing, {**none, **off}),
            "delete": {"summary": "Remove it with all it holds", "responses": gone},
        },
        one + "/documents": {"parameters": name, "post": upload},
        one + "/documents/{document}": {"delete": document},
        one + "/ingests/{id}": {
            "get": _get("How far it is", thing, {**none, **off}, parameters=[*name, _in_path("id")])
        },
        one + "/search": {
            "parameters": name,
            "post": _post("Passages for a question", Question, _list_of({"type": "object"}), _404="no such collection"),
        },
        "/v1/embeddings": {"post": _post("Vectors of texts", Embed, _list_of(thing), _404="no such model")},
    }


def document(names: list[str]) -> Json:
    """The whole document.

    Args:
        names: models that can be asked for now.
    """
    generating = {path: _generate(path, names) for path in _GENERATING}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gamyeon", "version": "1"},
        "paths": {**generating, **_own_paths(), **_admin_paths(), **_version_paths(), **_document_paths()},
        "security": [{"key": []}],
        "components": {
            "schemas": {"Error": _ERROR},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }
