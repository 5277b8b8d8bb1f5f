"""The engines behind the gateway: which one is asked, and what happens when it fails."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from serve.engine import Engine
from serve.errors import ApiError, EngineLost, EngineNotReady
from serve.relay import failed, read_whole
from serve.settings import Settings
from serve.wire import Backend, Wire

log = logging.getLogger(__name__)
_RETRIED = (502, 503)  # an engine that cannot answer now; another one may
_SHUN_SECONDS = 10.0


class Upstream:
    """One pool of connections to each engine."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.engine = engine
        self._settings = settings
        self._url = ""
        self.backends: list[Backend] = []
        self._sweeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        self._sweeper = asyncio.create_task(self._sweep())

    async def close(self) -> None:
        if self._sweeper:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        for backend in self.backends:
            backend.close()

    async def _sweep(self) -> None:
        pause = min(1.0, self._settings.idle_seconds / 4)
        while True:
            await asyncio.sleep(pause)
            for backend in self.backends:
                backend.sweep(asyncio.get_running_loop().time(), self._settings.idle_seconds)

    def _ordered(self) -> list[Backend]:
        """The engines, least loaded first; one that failed lately comes last."""
        if self.engine.url != self._url:  # another port after a restart
            for backend in self.backends:
                backend.close()
            key = self.engine.key.get_secret_value() if self.engine.key else ""
            self._url = self.engine.url
            self.backends = [Backend(url, key, self._settings.connect_seconds) for url in self.engine.urls]
        if len(self.backends) == 1:
            return self.backends
        now = asyncio.get_running_loop().time()
        return sorted(self.backends, key=lambda b: (b.shun_until > now, b.in_flight))

    async def ask(self, path: str, body: bytes, extra: str = "") -> tuple[Backend, Wire]:
        """The first engine that answers, with the head of its reply; `done` must follow.

        Nothing of a reply has been seen when another engine is asked instead.

        Raises:
            EngineNotReady: none is there.
            EngineLost: the last one went away before it answered, or failed at it.
        """
        if not self.engine.ready:
            raise EngineNotReady(f"the engine is not ready: {self.engine.status.text}", retry_after=5)
        backend, wire = await self._first_answer(path, body, extra)
        if wire.status != 500:
            return backend, wire
        try:  # what vLLM says when its core has died
            raise failed(await read_whole(wire))
        finally:
            self.done(backend, wire)

    async def _first_answer(self, path: str, body: bytes, extra: str) -> tuple[Backend, Wire]:
        backends = self._ordered()
        for backend in backends[:-1]:
            backend.in_flight += 1
            try:
                wire = await backend.ask(backend.request(path, body, extra))
                if wire.status not in _RETRIED:
                    backend.failures = 0
                    return backend, wire
                backend.give_back(wire)
            except (EngineNotReady, EngineLost) as error:
                log.warning("engine %s: %s", backend.url, error.message)
            except BaseException:
                backend.in_flight -= 1
                raise
            self._shun(backend)
        last = backends[-1]
        last.in_flight += 1
        try:
            wire = await last.ask(last.request(path, body, extra))
        except BaseException as error:
            last.in_flight -= 1
            if isinstance(error, ApiError):
                last.failures += 1
            raise
        return last, wire

    @contextlib.asynccontextmanager
    async def asking(self, path: str, body: bytes, extra: str = "") -> AsyncIterator[Wire]:
        """`ask`, with the connection given back at the end."""
        backend, wire = await self.ask(path, body, extra)
        try:
            yield wire
        finally:
            self.done(backend, wire)

    async def get(self, path: str) -> bytes:
        """The body of one of the first engine's own pages.

        Raises:
            ApiError: it does not answer.
        """
        backend = self._ordered()[0]
        backend.in_flight += 1
        try:
            wire = await backend.ask(backend.request(path, b""))
        except BaseException:
            backend.in_flight -= 1
            raise
        try:
            return await read_whole(wire)
        finally:
            self.done(backend, wire)

    def _shun(self, backend: Backend) -> None:
        backend.in_flight -= 1
        backend.failures += 1
        pause = min(_SHUN_SECONDS, 0.5 * 2 ** min(backend.failures, 5))
        backend.shun_until = asyncio.get_running_loop().time() + pause

    def done(self, backend: Backend, wire: Wire) -> None:
        """Give a connection back; one that is in the middle of a reply is ended, which stops the engine's work."""
        backend.in_flight -= 1
        backend.give_back(wire)
