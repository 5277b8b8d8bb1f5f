"""The gateway put together: one engine, one catalog, one connection pool, and the routes."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from sqlite3 import OperationalError
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Route

from personas.adapters import AdapterStore
from personas.embedder import batch_topic_embed, question_embed, topic_embed
from personas.errors import GamyeonError
from personas.feedback_store import FeedbackStore
from personas.loader import load_personas, personas_root
from personas.registry import Registry
from serve.access import Access
from serve.best_of import choose_replies
from serve.call import Call, Record
from serve.catalog import Catalog
from serve.context import Grounding, Library
from serve.engine import Engine
from serve.errors import ApiError, answer_crash, answer_database, answer_error, answer_method, answer_not_found
from serve.examples import ExampleHook
from serve.feedback import Answers, keep_answers
from serve.gateway import Gateway, count_call, log_call
from serve.guard import guard_replies
from serve.jobs import Jobs
from serve.metrics import Metrics
from serve.moderation import HEAD_FILE, Moderator, make_moderator
from serve.policies import PolicyHook
from serve.routes import admin, documents, embeddings, moderations, versions
from serve.routes.feedback import give_feedback
from serve.routes.generate import Generate
from serve.routes.models import get_model, list_models
from serve.routes.status import health, ready, show_metrics, show_openapi
from serve.settings import Settings, is_loopback
from serve.sweep import sweep
from serve.upstream import Upstream
from serve.usage import Usage

if TYPE_CHECKING:
    from serve.tracing import Tracing

log = logging.getLogger(__name__)

# Every route but those that generate; others add theirs here.
ROUTES = [
    Route("/health", health),
    Route("/ready", ready),
    Route("/metrics", show_metrics),
    Route("/openapi.json", show_openapi),
    Route("/v1/models", list_models),
    Route("/v1/models/{id}", get_model),
    Route("/v1/feedback", give_feedback, methods=["POST"]),
    *admin.ROUTES,
    *versions.ROUTES,
    *documents.ROUTES,
    *embeddings.ROUTES,
    *moderations.ROUTES,
]


@dataclass
class State:
    """What Starlette's routes find at `request.app.state.gamyeon`."""

    settings: Settings
    engine: Engine
    upstream: Upstream
    catalog: Catalog
    access: Access
    usage: Usage
    metrics: Metrics
    generate: Generate
    answers: Answers
    feedback: FeedbackStore
    library: Library
    jobs: Jobs
    moderator: Moderator
    tracing: "Tracing | None" = None


def make_app(settings: Settings, engine: Engine) -> Gateway:
    """The gateway for an engine, which it starts and stops with itself."""
    store, registry = AdapterStore(settings.home.adapters), Registry(settings.home.database)
    catalog = Catalog(settings, personas_root(), store, registry)
    access = Access(settings.home.database, required=not is_loopback(settings.host))
    upstream, usage, metrics = Upstream(settings, engine), Usage(settings.home.database), Metrics()
    generate = Generate(upstream, catalog, settings)
    answers, feedback = Answers(), FeedbackStore(settings.home.database)
    library = Library(settings)
    jobs = Jobs(library)
    moderator = make_moderator(settings, personas_root() / settings.safe_persona / HEAD_FILE, question_embed)
    examples = ExampleHook(catalog.root, settings.home, topic_embed, batch_topic_embed)
    state = State(
        settings, engine, upstream, catalog, access, usage, metrics, generate, answers, feedback, library, jobs,
        moderator,
    )  # fmt: skip
    # In this order on the way to the engine: policies, what the user said is kept, examples and passages come in, the
    # best of several replies or the guard answers.
    generate.hooks += [
        PolicyHook(catalog, moderator, metrics, settings.safe_persona), keep_answers(answers),
        examples, Grounding(library, metrics), choose_replies(upstream),
        guard_replies(upstream, metrics, catalog.own_engine),
    ]  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with _alive(state, app):
            yield

    handlers = {ApiError: answer_error, 404: answer_not_found, 405: answer_method, 500: answer_crash,
                OperationalError: answer_database}  # fmt: skip
    other = Starlette(routes=ROUTES, exception_handlers=handlers, lifespan=lifespan)
    other.router.redirect_slashes = False
    other.state.gamyeon = state
    app = Gateway(settings, access, metrics, generate, other)
    app.records += [count_call(metrics), count_usage(usage)]
    if settings.otlp_endpoint:
        from serve.tracing import Tracing

        tracing = state.tracing = Tracing(settings.otlp_endpoint)
        app.begin = tracing.begin
        app.records.append(tracing.end)
    if settings.log_requests or settings.log_content:
        app.records.append(log_call(settings))
    return app


@asynccontextmanager
async def _alive(state: State, app: Gateway) -> AsyncIterator[None]:
    """Everything started, and stopped again in the order that loses nothing."""
    await state.upstream.open()
    await state.engine.start()
    works = (state.access.keep_fresh, state.usage.keep_writing, app.end_slow_readers)
    tasks = [asyncio.create_task(work()) for work in works]
    tasks.append(asyncio.create_task(sweep(state.upstream, state.catalog)))
    tasks.append(asyncio.create_task(_warm(state)))
    try:
        await state.jobs.resume()
        yield
    finally:
        state.jobs.stop()
        state.library.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)  # one that failed must not keep the engine alive
        await state.upstream.close()
        await state.moderator.close()
        await state.engine.stop()
        if state.tracing:
            await asyncio.to_thread(state.tracing.close)
        state.usage.close()
        state.access.close()
        state.feedback.close()
        state.catalog.registry.close()


async def _warm(state: State) -> None:
    """Load what judges requests before the first one comes, where a persona wants it."""
    try:
        folders = load_personas(state.catalog.root).values()
        if any(folder.persona.policies.harmful != "off" for folder in folders):
            await state.moderator.judge(["안녕하세요"])
    except (GamyeonError, ApiError) as error:
        log.warning("requests cannot be judged: %s", error)


def count_usage(usage: Usage) -> Record:
    """Usage by key and persona version; a request that named no admitted model counts for none."""

    def record(call: Call) -> None:
        reply, target = call.reply, call.target
        if target is None:
            return
        persona = target.persona.name if target.persona else target.engine_model
        failed = not 200 <= reply.status < 400
        key = call.key.id if call.key else ""
        usage.add(key, persona, target.version or 0, failed, reply.prompt_tokens, reply.completion_tokens)

    return record
