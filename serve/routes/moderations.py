"""`/v1/moderations`: OpenAI's shape over the moderator of the settings."""

import secrets
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from serve.errors import ModelNotFound
from serve.moderation import Moderator
from serve.routes.documents import parsed

_MOST_BYTES = 2**20
Text = Annotated[str, Field(min_length=1, max_length=32_000)]
# OpenAI's names and its default: clients send them without having chosen a model.
_ALSO = ("omni-moderation-latest", "omni-moderation-2024-09-26", "text-moderation-latest")


class Part(BaseModel):
    """A piece of one input; pictures are not judged."""

    model_config = ConfigDict(extra="ignore")

    type: Literal["text"]
    text: Text


class Moderate(BaseModel):
    """The body of `POST /v1/moderations`: one text, several, or the text parts of one message."""

    model: str | None = Field(None, max_length=200)
    input: Text | Annotated[list[Text] | list[Part], Field(min_length=1, max_length=64)]


async def moderate(request: Request) -> JSONResponse:
    asked = await parsed(request, Moderate, _MOST_BYTES)
    moderator: Moderator = request.app.state.gamyeon.moderator
    if asked.model not in (None, moderator.name, *_ALSO):
        raise ModelNotFound(f"The model '{asked.model}' does not exist; it is '{moderator.name}'", param="model")
    verdicts = await moderator.judge(_texts(asked))
    made = {"id": f"modr-{secrets.token_hex(12)}", "model": moderator.name}
    return JSONResponse({**made, "results": [verdict.as_row() for verdict in verdicts]})


def _texts(asked: Moderate) -> list[str]:
    if isinstance(asked.input, str):
        return [asked.input]
    parts = [part.text for part in asked.input if isinstance(part, Part)]
    return ["\n".join(parts)] if parts else [text for text in asked.input if isinstance(text, str)]


ROUTES = [Route("/v1/moderations", moderate, methods=["POST"])]
