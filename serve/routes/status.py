"""`/health`: the gateway lives. `/ready`: the engine answers, or how far it is. `/metrics`: Prometheus."""

import asyncio
import re
from dataclasses import asdict

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve.errors import ApiError
from serve.metrics import Metrics
from serve.openapi import document
from serve.upstream import Upstream

_QUEUE = re.compile(rb"^vllm:num_requests_(running|waiting)(?:\{[^}\n]*\})? ([0-9.e+]+)$", re.MULTILINE)


async def health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


async def ready(request: Request) -> JSONResponse:
    """200 when the engine answers, else 503; the body says the stage either way."""
    status = request.app.state.gamyeon.engine.status
    return JSONResponse(asdict(status), 200 if status.state == "ready" else 503)


async def show_openapi(request: Request) -> JSONResponse:
    return JSONResponse(document(request.app.state.gamyeon.catalog.names()))


async def show_metrics(request: Request) -> Response:
    """Ours, with the engine's queue as it is now where the engine is vLLM."""
    state = request.app.state.gamyeon
    metrics: Metrics = state.metrics
    status = state.engine.status
    metrics.ready.set(status.state == "ready")
    metrics.restarts.set(status.restarts)
    for backend in state.upstream.backends:
        metrics.backend.labels(backend.url).set(backend.in_flight)
    if state.catalog.own_engine and state.engine.ready:
        await _read_queue(state.upstream, metrics)
    return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def _read_queue(upstream: Upstream, metrics: Metrics) -> None:
    try:
        async with asyncio.timeout(1):
            text = await upstream.get("/metrics")
    except (ApiError, TimeoutError):
        return
    for name, value in _QUEUE.findall(text):
        (metrics.running if name == b"running" else metrics.waiting).set(float(value))
