"""`/health`: the gateway lives. `/ready`: the engine answers, or how far it is."""

from dataclasses import asdict

from starlette.requests import Request
from starlette.responses import JSONResponse


async def health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> JSONResponse:
    """200 when the engine answers, else 503; the body says the stage either way."""
    status = request.app.state.engine.status
    return JSONResponse(asdict(status), 200 if status.state == "ready" else 503)
