"""`/v1/embeddings`: OpenAI's shape over the embedder of the documents."""

import asyncio
import base64
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from personas.errors import GamyeonError
from serve.context import Library, as_api_error
from serve.errors import BadRequest, ModelNotFound
from serve.gateway import key_of
from serve.routes.documents import parsed

_MOST_CHARACTERS = 200_000
Text = Annotated[str, Field(min_length=1, max_length=32_000)]


class Embed(BaseModel):
    """The body of `POST /v1/embeddings`; `input_type` is ours: e5 embeds questions and passages differently."""

    model: str = Field(max_length=200)
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
    input_type: Literal["query", "passage"] = "passage"


async def embed(request: Request) -> JSONResponse:
    asked = await parsed(request, Embed, 2**20)
    library: Library = request.app.state.gamyeon.library
    name = library.settings.embedder
    if asked.model != name:
        raise ModelNotFound(f"The model '{asked.model}' does not exist; the embedder is '{name}'", param="model")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if sum(len(text) for text in texts) > _MOST_CHARACTERS:
        raise BadRequest(f"the texts together may have {_MOST_CHARACTERS} characters", param="input")
    try:
        async with library.embedding:
            vectors, tokens = await asyncio.to_thread(library.embed, texts, asked.input_type == "query")
    except GamyeonError as error:
        raise as_api_error(error) from error
    key = key_of(request.scope)
    if key is not None and key.tokens is not None:
        key.tokens.take(tokens)
    request.app.state.gamyeon.usage.add(key.id if key else "", name, 0, False, tokens, 0)
    if asked.dimensions not in (None, len(vectors[0])):
        raise BadRequest(f"this model has {len(vectors[0])} dimensions", param="dimensions")
    coded = [_base64(vector) for vector in vectors] if asked.encoding_format == "base64" else vectors
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(coded)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode()


ROUTES = [Route("/v1/embeddings", embed, methods=["POST"])]
