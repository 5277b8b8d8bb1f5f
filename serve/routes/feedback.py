"""`POST /v1/feedback`: a user's word on an answer."""

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from serve.errors import BadRequest
from serve.feedback import Word, take
from serve.gateway import key_of
from serve.routes.admin import read_small


async def give_feedback(request: Request) -> JSONResponse:
    """`{"id", "thumb": "up" | "down", "reason", "correction", "user", "consent"}`; id and one more are needed."""
    body = await read_small(request)
    try:
        word = Word.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or None
        raise BadRequest(f"{name or 'body'}: {first['msg']}", param=name) from error
    state, key = request.app.state.gamyeon, key_of(request.scope)
    feedback = await take(word, key.id if key else "", state.answers, state.feedback)
    if word.thumb:
        version = str(feedback.version or "")
        state.metrics.labelled(state.metrics.feedback, feedback.persona, version, word.thumb).inc()
    return JSONResponse(
        {
            "object": "feedback",
            "id": feedback.answer,
            "thumb": feedback.thumb,
            "conversation_stored": feedback.content is not None,
        }
    )
