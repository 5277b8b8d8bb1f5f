"""The gateway: an ASGI application over one engine, one catalog and one connection pool."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.routing import Route

from personas.adapters import AdapterStore
from personas.feedback_store import FeedbackStore
from personas.loader import personas_root
from personas.registry import Registry
from serve.catalog import Catalog
from serve.engine import Engine
from serve.errors import ApiError, answer_crash, answer_error, answer_method, answer_not_found
from serve.feedback import Answers
from serve.routes.admin import ADMIN_ROUTES
from serve.routes.feedback import give_feedback
from serve.routes.generate import Generate
from serve.routes.models import get_model, list_models
from serve.routes.status import health, ready
from serve.settings import Settings
from serve.sweep import sweep
from serve.upstream import Upstream


def make_app(settings: Settings, engine: Engine) -> Starlette:
    """The gateway for an engine, which it starts and stops with itself."""
    store, registry = AdapterStore(settings.home.adapters), Registry(settings.home.database)
    catalog = Catalog(settings, personas_root(), store, registry)
    upstream = Upstream(settings, engine)
    answers, feedback = Answers(), FeedbackStore(settings.home.database)
    generate = Generate(upstream, catalog, answers, settings.max_body_bytes)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await upstream.open()
        await engine.start()
        sweeping = asyncio.create_task(sweep(upstream, catalog))
        try:
            yield
        finally:
            sweeping.cancel()
            await upstream.close()
            await engine.stop()
            registry.close()
            feedback.close()

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/ready", ready),
            Route("/v1/models", list_models),
            Route("/v1/models/{id}", get_model),
            Route("/v1/chat/completions", generate, methods=["POST"]),
            Route("/v1/completions", generate, methods=["POST"]),
            Route("/v1/feedback", give_feedback, methods=["POST"]),
            *ADMIN_ROUTES,
        ],
        exception_handlers={ApiError: answer_error, 404: answer_not_found, 405: answer_method, 500: answer_crash},
        lifespan=lifespan,
    )
    app.state.catalog = catalog
    app.state.engine = engine
    app.state.answers = answers
    app.state.feedback = feedback
    return app
