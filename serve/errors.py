"""Errors of the gateway, in OpenAI's shape.

    ApiError                 any error that a client sees
    ├── BadRequest      400  the request cannot be understood
    ├── Unauthorized    401  no valid API key
    ├── Forbidden       403  the key or the page may not do this
    ├── ModelNotFound   404  no such persona, version or base
    ├── AnswerNotFound  404  feedback on an answer that is not kept (any more)
    ├── RouteNotFound   404
    ├── MethodNotAllowed 405
    ├── AdapterMismatch 409  the version does not fit this base
    ├── Conflict        409  the registry cannot make this move
    ├── RequestTimeout  408  the body did not come
    ├── BodyTooLarge    413
    ├── RateLimited     429  a limit is reached (Retry-After)
    │   └── Overloaded  429  more requests at work than the gateway takes
    ├── EngineLost      502  the engine went away or broke its word
    ├── EngineNotReady  503  starting or restarting; try again (Retry-After)
    └── DatabaseBusy    503  another process holds the database, or the disk is full (Retry-After)

The shape is `{"error": {"message", "type", "param", "code"}}`
(https://platform.openai.com/docs/guides/error-codes).
"""

import json
import logging

from starlette.requests import Request
from starlette.responses import Response

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An error with an HTTP status and OpenAI's fields."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(self, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        """The JSON body."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps({"error": error}, ensure_ascii=False).encode()

    def headers(self) -> dict[str, str]:
        return {"retry-after": str(self.retry_after)} if self.retry_after is not None else {}


class BadRequest(ApiError):
    """The request cannot be understood."""

    status = 400
    type = "invalid_request_error"
    code = "bad_request"


class Unauthorized(ApiError):
    """No valid API key."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"

    def headers(self) -> dict[str, str]:
        return {"www-authenticate": "Bearer", **super().headers()}


class Forbidden(ApiError):
    """The key, or the page that asks, may not do this."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class RequestTimeout(ApiError):
    """The body did not come in time."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class RateLimited(ApiError):
    """A limit of the key is reached."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class Overloaded(RateLimited):
    """More requests at work than the gateway takes."""

    code = "overloaded"


class ModelNotFound(ApiError):
    """No such persona, version or base."""

    status = 404
    type = "invalid_request_error"
    code = "model_not_found"


class AnswerNotFound(ApiError):
    """Feedback on an answer that is not kept (any more)."""

    status = 404
    type = "invalid_request_error"
    code = "answer_not_found"


class RouteNotFound(ApiError):
    """No such route."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodNotAllowed(ApiError):
    """The route takes another method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class AdapterMismatch(ApiError):
    """The version does not fit the base that is served."""

    status = 409
    type = "invalid_request_error"
    code = "adapter_mismatch"


class Conflict(ApiError):
    """The registry cannot make this move."""

    status = 409
    type = "invalid_request_error"
    code = "conflict"


class BodyTooLarge(ApiError):
    """More bytes than the gateway takes."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"


class EngineLost(ApiError):
    """The engine went away or broke its word."""

    status = 502
    type = "server_error"
    code = "engine_lost"


class EngineNotReady(ApiError):
    """The engine is starting or restarting."""

    status = 503
    type = "server_error"
    code = "engine_not_ready"


class DatabaseBusy(ApiError):
    """Another process holds the database, or the disk is full."""

    status = 503
    type = "server_error"
    code = "database_busy"


async def answer_error(_: Request, error: Exception) -> Response:
    """Starlette's handler for `ApiError`."""
    assert isinstance(error, ApiError)
    return Response(error.body(), error.status, error.headers(), "application/json")


async def answer_not_found(request: Request, _: Exception) -> Response:
    error = RouteNotFound(f"Unknown request URL: {request.method} {request.url.path}")
    return await answer_error(request, error)


async def answer_method(request: Request, _: Exception) -> Response:
    error = MethodNotAllowed(f"{request.method} is not allowed on {request.url.path}")
    return await answer_error(request, error)


async def answer_database(request: Request, error: Exception) -> Response:
    """Nothing was changed; it may be in a moment."""
    log.warning("the database: %s", error)
    return await answer_error(request, DatabaseBusy("the database cannot be written now; ask again", retry_after=2))


async def answer_crash(request: Request, _: Exception) -> Response:
    """An error of ours: the client learns nothing of the inside; the log has the traceback."""
    return await answer_error(request, ApiError("internal error"))
