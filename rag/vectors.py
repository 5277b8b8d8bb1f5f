"""Vectors in Chroma: embedded in this process, or a server. The store says what should be there; this makes it so."""

# ruff: noqa: S608 - the names of tables are ours, and every value is bound

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from personas.embedder import Vectors
from personas.home import Home
from personas.lang import say
from rag.embed import Embedder
from rag.errors import StoreError
from rag.rows import Collection
from rag.settings import RagSettings
from rag.store import Store, embedded_text, forget_vectors

_BATCH = 32
_OPENING = threading.Lock()  # Chroma shows a second thread its index before that is open
Progress = Callable[[int, int], None]


def connect(home: Home, settings: RagSettings) -> Any:
    """A Chroma client; it tells nobody anything.

    Raises:
        StoreError: the server does not answer.
    """
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    import chromadb
    from chromadb.config import Settings

    quiet = Settings(anonymized_telemetry=False, allow_reset=False)
    if not settings.chroma_url:
        with _OPENING:
            return chromadb.PersistentClient(str(home.chroma), settings=quiet)
    from urllib.parse import urlsplit

    url = urlsplit(settings.chroma_url)
    try:
        return chromadb.HttpClient(url.hostname or "", url.port or 8000, ssl=url.scheme == "https", settings=quiet)
    except Exception as error:  # chromadb wraps a refused connection in ValueError, an HTTP fault in its own errors
        raise StoreError(
            say(
                f"Chroma 서버가 답하지 않습니다: {settings.chroma_url}",
                f"no Chroma server answers at {settings.chroma_url}",
            ),
            say(
                "chroma run을 실행하거나 GAMYEON_RAG_CHROMA_URL을 비우세요",
                "start one (chroma run) or unset GAMYEON_RAG_CHROMA_URL",
            ),
        ) from error


class VectorIndex:
    """The Chroma collections, kept in step with the store."""

    def __init__(self, home: Home, settings: RagSettings, store: Store) -> None:
        self._home, self._settings, self._store = home, settings, store
        self._client: Any = None
        self._seen: dict[int, int] = {}
        # One writer at a time: embedded Chroma does not arbitrate between processes.
        self._lock = FileLock(home.chroma / ".writing.lock")

    @property
    def client(self) -> Any:
        if self._client is None:
            self._client = connect(self._home, self._settings)
        return self._client

    def _chroma(self, name: str) -> Any:
        configuration = {"hnsw": {"space": "ip", "ef_construction": 128, "max_neighbors": 24, "ef_search": 128}}
        return self.client.get_or_create_collection(name, configuration=configuration, embedding_function=None)

    def fill(self, collection: Collection, embedder: Embedder, progress: Progress | None = None) -> int:
        """Give every passage that waits its vector; returns how many. Stopped, it goes on where it was."""
        self.drain()
        waiting = self._waiting(collection)
        done = 0
        for batch in _by_length(waiting):
            self._ensure(batch, embedder)
            with self._lock:
                self._push(collection, [row[0] for row in batch])
            done += len(batch)
            if progress:
                progress(done, len(waiting))
        self.drain()
        return done

    def _waiting(self, collection: Collection) -> list[tuple[int, bytes, str]]:
        rows = self._store.db.execute(
            "SELECT p.id, p.hash, p.heading, p.text FROM passages p JOIN documents d ON d.id = p.document_id"
            " WHERE d.collection_id = ? AND p.embedded = 0",
            (collection.id,),
        )
        return [(row[0], row[1], embedded_text(row[2], row[3])) for row in rows]

    def _ensure(self, batch: list[tuple[int, bytes, str]], embedder: Embedder) -> None:
        """Embed what was never embedded, and keep it: no text is paid for twice."""
        db = self._store.db
        texts = {
            row[1]: row[2]
            for row in batch
            if not db.execute(
                "SELECT 1 FROM vectors WHERE hash = ? AND embedder = ?", (row[1], embedder.spec)
            ).fetchone()
        }
        if not texts:
            return
        made = embedder.passages(list(texts.values())).astype(np.float16)
        rows = [(key, embedder.spec, vector.tobytes()) for key, vector in zip(texts, made, strict=True)]
        with self._store.change() as change:
            change.executemany("INSERT OR REPLACE INTO vectors VALUES (?,?,?)", rows)

    def _push(self, collection: Collection, ids: list[int]) -> None:
        """Vectors of the passages that are still there into Chroma; then they are marked. Under the lock."""
        marks = ",".join("?" * len(ids))
        rows = self._store.db.execute(
            "SELECT p.id, p.document_id, d.modified, v.vector FROM passages p JOIN documents d ON d.id = p.document_id"
            f" JOIN vectors v ON v.hash = p.hash AND v.embedder = ? WHERE p.id IN ({marks}) AND d.collection_id = ?",
            (collection.embedder, *ids, collection.id),
        ).fetchall()
        if not rows:
            return
        with chroma_errors():
            self._chroma(collection.chroma).upsert(
                ids=[str(row[0]) for row in rows],
                embeddings=np.stack([np.frombuffer(row[3], np.float16) for row in rows]).astype(np.float32),
                metadatas=[{"document": row[1], "modified": row[2]} for row in rows],
            )
        with self._store.change() as db:
            db.executemany("UPDATE passages SET embedded = 1 WHERE id = ?", [(row[0],) for row in rows])
            db.execute("UPDATE collections SET version = version + 1 WHERE id = ?", (collection.id,))

    def drain(self) -> None:
        """Take the vectors of what is gone out of Chroma."""
        if not self._store.db.execute("SELECT 1 FROM doomed").fetchone():
            return
        with self._lock, chroma_errors():
            rows = self._store.db.execute("SELECT chroma, passage_id FROM doomed ORDER BY chroma").fetchall()
            have = {found.name for found in self.client.list_collections()}
            for name in {row[0] for row in rows} & have:
                ids = [row[1] for row in rows if row[0] == name]
                if 0 in ids:
                    self.client.delete_collection(name)
                    continue
                chroma = self._chroma(name)
                for begin in range(0, len(ids), 1000):
                    chroma.delete(ids=[str(number) for number in ids[begin : begin + 1000]])
            with self._store.change() as db:
                db.executemany("DELETE FROM doomed WHERE chroma = ? AND passage_id = ?", rows)
                for name in {row[0] for row in rows}:
                    changed = (
                        "UPDATE collections SET version = version + 1 WHERE ? = 'gamyeon-' || id || '-' || generation"
                    )
                    db.execute(changed, (name,))
                forget_vectors(db)

    def count(self, collection: Collection) -> int:
        """Vectors in Chroma."""
        with chroma_errors():
            return int(self._chroma(collection.chroma).count())

    def search(
        self, collection: Collection, vector: Vectors, k: int, documents: list[int] | None
    ) -> list[tuple[int, float]]:
        """Ids of the nearest passages and their cosines, best first.

        Args:
            vector: shape (dimension,), of length 1.
            documents: only passages of these documents; None for all.
        """
        self._refresh(collection)
        where = None if documents is None else {"document": {"$in": documents}}
        with chroma_errors():
            chroma = self._chroma(collection.chroma)
            count = chroma.count()
            if not count or documents == []:
                return []
            reply = chroma.query(
                query_embeddings=vector[None], n_results=min(k, count), where=where, include=["distances"]
            )
        return [(int(i), 1 - float(d)) for i, d in zip(reply["ids"][0], reply["distances"][0], strict=True)]

    def _refresh(self, collection: Collection) -> None:
        """Open the index again when another process has changed it: embedded Chroma does not see that itself."""
        seen = self._seen.get(collection.id)
        if (
            seen is not None
            and seen != collection.version
            and self._client is not None
            and not self._settings.chroma_url
        ):
            from chromadb.api.shared_system_client import SharedSystemClient

            with _OPENING:
                SharedSystemClient.clear_system_cache()
            self._client = None
        self._seen[collection.id] = collection.version


def _by_length(rows: list[tuple[int, bytes, str]]) -> Iterator[list[tuple[int, bytes, str]]]:
    rows = sorted(rows, key=lambda row: len(row[2]))
    for begin in range(0, len(rows), _BATCH):
        yield rows[begin : begin + _BATCH]


class chroma_errors:
    """Chroma's failures as ours."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, StoreError) or not isinstance(error, Exception):
            return
        text = f"{type(error).__name__}: {error}"[:200]
        if "full" in text.lower() or "no space" in text.lower():
            raise StoreError(
                say("디스크가 가득 차서 벡터를 저장하지 못했습니다", "the disk is full; vectors were not stored"),
                say("자리를 비우고 같은 명령을 다시 실행하세요", "free some space and run the same command again"),
            ) from error
        raise StoreError(
            say(f"벡터 저장소 오류: {text}", f"the vector store failed: {text}"),
            say(
                "서버를 확인하거나 rag reindex --collection NAME", "check the server, or rag reindex --collection NAME"
            ),
        ) from error


def folder_size(path: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
