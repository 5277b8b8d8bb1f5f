"""`/v1/models` and `/v1/models/{id}`: the names that can be asked for."""

import time

from starlette.requests import Request
from starlette.responses import JSONResponse

from personas.adapters import parse_version_id
from personas.errors import PersonaError
from serve.catalog import Catalog
from serve.errors import ApiError, ModelNotFound

_STARTED = int(time.time())


def _card(name: str, catalog: Catalog) -> dict[str, object]:
    """OpenAI's model object; `parent`, `root` and `persona` say more to those who look."""
    card: dict[str, object] = {"id": name, "object": "model", "created": _STARTED, "owned_by": "gamyeon"}
    if name == catalog.base_name:
        return {**card, "root": catalog.base_name, "parent": None}
    asked = parse_version_id(name)
    persona = catalog.persona(asked[0] if asked else name)
    version = asked[1] if asked else catalog.registry.live(name)
    shown = persona.model_dump(include={"title", "description", "greeting", "questions"})
    root = f"{persona.name}@v{version}" if version else catalog.base_name
    return {**card, "root": root, "parent": catalog.base_name, "persona": {**shown, "version": version}}


async def list_models(request: Request) -> JSONResponse:
    catalog: Catalog = request.app.state.gamyeon.catalog
    try:
        names = catalog.names()
    except PersonaError as error:
        raise ApiError("a persona folder is faulty; run: personas check") from error
    return JSONResponse({"object": "list", "data": [_card(name, catalog) for name in names]})


async def get_model(request: Request) -> JSONResponse:
    catalog: Catalog = request.app.state.gamyeon.catalog
    name = request.path_params["id"]
    asked = parse_version_id(name)
    if asked and not catalog.registry.has(*asked):
        raise ModelNotFound(f"The model '{name}' does not exist", param="model")
    return JSONResponse(_card(name, catalog))
