"""Ingests of uploads, in the background of the gateway."""

import asyncio
import logging
import threading
import uuid
from collections import deque
from dataclasses import InitVar, dataclass, field
from pathlib import Path
from typing import Any

from personas.errors import GamyeonError
from serve.context import Collection, Library
from serve.errors import ApiError

log = logging.getLogger(__name__)
_REMEMBERED = 200


class DocumentNotFound(ApiError):
    """No such document or ingest."""

    status = 404
    type = "invalid_request_error"
    code = "document_not_found"


@dataclass
class Job:
    """An ingest that runs in the background. `embedded` of `waiting` passages have their vectors."""

    id: str
    collection: str
    files: list[str]
    stopping: InitVar[threading.Event]
    state: str = "waiting"  # waiting | reading | embedding | done | failed
    stored: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    embedded: int = 0
    waiting: int = 0
    error: str | None = None

    def __post_init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping

    def watch(self, event: Any) -> None:
        """Follow the ingest; called in its thread, which it ends when the gateway stops."""
        if self._stopping.is_set():
            raise GamyeonError("the gateway stopped; the ingest goes on when it starts")
        if event.stage == "embedding":
            self.state, self.embedded, self.waiting = "embedding", event.done, event.total
        elif event.stage == "refused":
            # The person who uploaded it knows the file by its name, not by where it lies here.
            name = event.name or "file"
            self.refused.append(f"{name}: {event.error.message.rpartition(name + ': ')[2]}")
        elif event.stage in ("stored", "unchanged"):
            self.stored.append(event.name)


class Jobs:
    """Ingests, one at a time in the order of their coming; the last few hundred are remembered."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._turn = asyncio.Lock()
        self._stopping = threading.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._known: deque[Job] = deque(maxlen=_REMEMBERED)

    def start(self, collection: Collection, files: list[Path]) -> Job:
        job = Job("ingest-" + uuid.uuid4().hex[:12], collection.name, [file.name for file in files], self._stopping)
        self._known.append(job)
        task = asyncio.create_task(self._run(job, collection, files))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return job

    async def resume(self) -> None:
        """Go on with uploads that a stop or a kill left unread or without vectors."""
        for collection, files in await asyncio.to_thread(self._library.unfinished):
            self.start(collection, files)

    def stop(self) -> None:
        """End the running ingest at its next step; nothing that it has stored is lost."""
        self._stopping.set()
        for task in self._tasks:
            task.cancel()

    def find(self, collection: str, job_id: str) -> Job:
        """
        Raises:
            DocumentNotFound: no such ingest of this collection.
        """
        for job in self._known:
            if (job.id, job.collection) == (job_id, collection):
                return job
        raise DocumentNotFound("there is no such ingest", param="id")

    async def _run(self, job: Job, collection: Collection, files: list[Path]) -> None:
        async with self._turn:
            job.state = "reading"
            try:
                await asyncio.to_thread(self._library.ingest, collection, files, job.watch)
                job.state = "done"
            except GamyeonError as error:
                job.state, job.error = "failed", error.message
            except Exception:
                log.exception("ingest %s failed", job.id)
                job.state, job.error = "failed", "internal error"
