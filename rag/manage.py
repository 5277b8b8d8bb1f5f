"""What is done with a collection beside filling and asking it: list, remove, reindex, count."""

# ruff: noqa: S608 - the names of tables are ours, and every value is bound

from datetime import datetime
from typing import Any

from personas.home import Home
from personas.lang import say
from rag.embed import make_embedder
from rag.errors import CollectionError
from rag.find import nfc
from rag.ingest import Event, Watch
from rag.rows import Collection, DocumentRow
from rag.settings import RagSettings
from rag.store import Store
from rag.vectors import VectorIndex, folder_size
from rag.words import table_of


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def collection_rows(store: Store) -> list[dict[str, Any]]:
    """One row a collection."""
    rows = []
    for collection in store.collections():
        documents = store.documents(collection)
        rows.append(
            {
                "name": collection.name,
                "documents": len(documents),
                "pages": sum(row.pages for row in documents),
                "passages": sum(row.passages for row in documents),
                "waiting": sum(row.waiting for row in documents),
                "embedder": collection.embedder,
                "created": _day(collection.created),
            }
        )
    return rows


def document_rows(store: Store, name: str) -> list[dict[str, Any]]:
    """One row a document."""
    return [
        {
            "document": row.name,
            "pages": row.pages,
            "passages": row.passages,
            "waiting": row.waiting,
            "empty_pages": row.empty_pages,
            "modified": _day(row.modified),
            "added": _day(row.added),
            "source": row.source,
        }
        for row in store.documents(store.collection(name))
    ]


def one_document(store: Store, collection: Collection, name: str) -> DocumentRow:
    """The document of a name or source.

    Raises:
        CollectionError: none, or more than one.
    """
    wanted = nfc(name)
    found = [row for row in store.documents(collection) if wanted in (row.name, nfc(row.source))]
    if len(found) == 1:
        return found[0]
    if found:
        raise CollectionError(
            say(f"'{name}'이라는 문서가 {len(found)}개 있습니다", f"{len(found)} documents are called '{name}'"),
            say(f"전체 경로로: {found[0].source}", f"give the whole path: {found[0].source}"),
        )
    raise CollectionError(
        say(f"'{collection.name}'에 문서 '{name}'이(가) 없습니다", f"'{collection.name}' has no document '{name}'"),
        f"rag ls --collection {collection.name}",
    )


def remove(home: Home, name: str, documents: list[str], everything: bool) -> list[str]:
    """Remove documents by name, or the whole collection; returns what was removed.

    The words go at once; vectors that a lost Chroma server keeps are never shown and go with the next ingest.
    """
    store = Store.open(home)
    try:
        collection = store.collection(name)
        if everything:
            store.drop(collection)
            removed = [collection.name]
        elif documents:
            rows = [one_document(store, collection, document) for document in documents]
            for row in rows:
                store.remove(collection, row.id)
            removed = [row.name for row in rows]
        else:
            raise CollectionError(
                say("무엇을 지울지 정해 주세요", "say what to remove"), f"rag rm NAME | --all --collection {name}"
            )
        VectorIndex(home, RagSettings(), store).drain()
        return removed
    finally:
        store.close()


def reindex(home: Home, name: str, settings: RagSettings, watch: Watch = lambda _: None) -> int:
    """Make every vector of a collection again with the embedder that is set; returns how many."""
    store = Store.open(home)
    try:
        collection = store.collection(name)
        embedder = make_embedder(settings.embedder, settings)
        with store.change() as db:
            db.execute("INSERT OR REPLACE INTO doomed VALUES (?, 0)", (collection.chroma,))
            db.execute(
                "UPDATE collections SET embedder = ?, generation = generation + 1, version = version + 1 WHERE id = ?",
                (embedder.spec, collection.id),
            )
            db.execute(
                "UPDATE passages SET embedded = 0"
                " WHERE document_id IN (SELECT id FROM documents WHERE collection_id = ?)",
                (collection.id,),
            )
        index = VectorIndex(home, settings, store)
        return index.fill(
            store.collection(name), embedder, lambda done, total: watch(Event("embedding", done=done, total=total))
        )
    finally:
        store.close()


def statistics(home: Home, name: str, settings: RagSettings) -> dict[str, Any]:
    """Counts and sizes of a collection; bytes on disk are of the whole state folder."""
    store = Store.open(home)
    try:
        collection = store.collection(name)
        documents = store.documents(collection)
        characters = store.db.execute(
            "SELECT SUM(LENGTH(text)) FROM passages p JOIN documents d ON d.id = p.document_id WHERE collection_id = ?",
            (collection.id,),
        ).fetchone()[0]
        indexed = store.db.execute(f'SELECT COUNT(*) FROM "{table_of(collection.id)}"').fetchone()[0]
        return {
            "name": name,
            "documents": len(documents),
            "pages": sum(row.pages for row in documents),
            "passages": sum(row.passages for row in documents),
            "words_indexed": indexed,
            "waiting": sum(row.waiting for row in documents),
            "characters": characters or 0,
            "embedder": collection.embedder,
            "vectors": VectorIndex(home, settings, store).count(collection),
            "database_bytes": home.documents.stat().st_size,
            "chroma_bytes": 0 if settings.chroma_url else folder_size(home.chroma),
        }
    finally:
        store.close()
