"""Documents, passages and the word index in one SQLite file: a document is there whole, words and all, or not."""

# ruff: noqa: S608 - the names of tables are ours, and every value is bound

import contextlib
import hashlib
import json
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from personas.database import connect
from personas.home import Home
from personas.lang import say
from rag.errors import CollectionError, StoreError
from rag.rows import Collection, DocumentRow, NewDocument, Stored
from rag.words import table_of

NAME = r"[a-z0-9가-힣][a-z0-9가-힣_-]{0,59}"


def embedded_text(heading: str, text: str) -> str:
    """What is embedded and indexed for a passage: the headings that its text does not show itself, then the text."""
    above = [title for title in heading.split(" > ") if title and title not in text]
    return "\n".join([*above, text])


def text_hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


class Store:
    """The database. Threads may share one; many processes may hold it open."""

    def __init__(self, path: Path) -> None:
        self._turn = threading.RLock()  # one transaction a connection
        self._db = connect(path, timeout=60)
        self._db.execute("PRAGMA synchronous=FULL")  # what was acknowledged survives a power cut too
        self._db.execute("PRAGMA foreign_keys=ON")
        self._db.execute("PRAGMA cache_size=-65536")
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'doomed'").fetchone():
            self._db.executescript((Path(__file__).parent / "schema.sql").read_text(encoding="utf-8"))

    @classmethod
    def open(cls, home: Home) -> "Store":
        return cls(home.documents)

    def close(self) -> None:
        self._db.close()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, all or nothing.

        Raises:
            StoreError: the disk is full or cannot be written; nothing was changed.
        """
        with self._turn:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.OperationalError as error:
                raise _store_error(error) from error

    def create(self, name: str, embedder: str, chunk_chars: int, owner: str = "") -> Collection:
        """A new collection, or the one of that name if it is there.

        Raises:
            CollectionError: not a name.
        """
        if re.fullmatch(NAME, name) is None:
            raise CollectionError(
                say(f"'{name[:60]}'은(는) 컬렉션 이름이 될 수 없습니다", f"'{name[:60]}' cannot name a collection"),
                say(
                    "한글, 영문 소문자, 숫자, -, _로 60자까지", "Hangul, lower case letters, digits, - and _, up to 60"
                ),
            )
        with self.change() as db:
            db.execute(
                "INSERT OR IGNORE INTO collections (name, owner, embedder, chunk_chars, created) VALUES (?,?,?,?,?)",
                (name, owner, embedder, chunk_chars, time.time()),
            )
            found = self.find(name)
            assert found
            db.execute(f'CREATE VIRTUAL TABLE IF NOT EXISTS "{table_of(found.id)}" USING fts5({_FTS})')
        return found

    def find(self, name: str) -> Collection | None:
        row = self._db.execute(f"SELECT {_COLLECTION} FROM collections WHERE name = ?", (name,)).fetchone()
        return Collection(*row) if row else None

    def collection(self, name: str) -> Collection:
        """The collection of a name.

        Raises:
            CollectionError: there is none.
        """
        found = self.find(name)
        if found is None:
            raise CollectionError(
                say(f"컬렉션 '{name[:60]}'이(가) 없습니다", f"there is no collection '{name[:60]}'"),
                f"rag ingest PATH --collection {name[:60]}",
            )
        return found

    def collections(self) -> list[Collection]:
        return [Collection(*row) for row in self._db.execute(f"SELECT {_COLLECTION} FROM collections ORDER BY name")]

    def drop(self, collection: Collection) -> None:
        """Remove a collection with everything in it; its vectors are doomed."""
        with self.change() as db:
            db.execute(f'DROP TABLE IF EXISTS "{table_of(collection.id)}"')
            db.execute("DELETE FROM doomed WHERE chroma = ?", (collection.chroma,))
            db.execute("INSERT INTO doomed VALUES (?, 0)", (collection.chroma,))
            db.execute("DELETE FROM collections WHERE id = ?", (collection.id,))
            forget_vectors(db)

    def documents(self, collection: Collection) -> list[DocumentRow]:
        rows = self._db.execute(
            "SELECT d.id, source, name, sha256, size, modified, pages, empty_pages, ocr, added, COUNT(p.id),"
            " SUM(p.embedded = 0) FROM documents d LEFT JOIN passages p ON p.document_id = d.id"
            " WHERE collection_id = ? GROUP BY d.id ORDER BY name",
            (collection.id,),
        )
        return [DocumentRow(*_typed(row)) for row in rows]

    def put(self, collection: Collection, document: NewDocument) -> int:
        """Write a document in place of the one from the same source; returns its id. The commit is the acknowledgement.

        Raises:
            CollectionError: the collection was removed meanwhile.
            StoreError: the disk is full; nothing was changed.
        """
        with self.change() as db:
            if not db.execute("SELECT 1 FROM collections WHERE id = ?", (collection.id,)).fetchone():
                raise CollectionError(
                    say(
                        f"컬렉션 '{collection.name}'이(가) 그사이 지워졌습니다",
                        f"'{collection.name}' was removed meanwhile",
                    )
                )
            for (old,) in db.execute(
                "SELECT id FROM documents WHERE collection_id = ? AND source = ?", (collection.id, document.source)
            ).fetchall():
                _remove(db, collection, old)
            cursor = db.execute(
                "INSERT INTO documents (collection_id, source, name, sha256, size, modified, pages, empty_pages, ocr,"
                " added) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    collection.id, document.source, document.name, document.sha256, document.size, document.modified,
                    document.pages, json.dumps(document.empty_pages), document.ocr, time.time(),
                ),
            )  # fmt: skip
            made = cursor.lastrowid
            assert made
            for ordinal, (passage, terms) in enumerate(zip(document.passages, document.terms, strict=True)):
                cursor.execute(
                    'INSERT INTO passages (document_id, ordinal, page, last_page, heading, start, "end", text, hash)'
                    " VALUES (?,?,?,?,?,?,?,?,?)",
                    (
                        made, ordinal, passage.page, passage.last_page, passage.heading, passage.start, passage.end,
                        passage.text, text_hash(embedded_text(passage.heading, passage.text)),
                    ),
                )  # fmt: skip
                db.execute(
                    f'INSERT INTO "{table_of(collection.id)}" (rowid, terms) VALUES (?,?)',
                    (cursor.lastrowid, " ".join(terms)),
                )
            return made

    def remove(self, collection: Collection, document_id: int) -> None:
        """Remove a document with its passages and words; its vectors are doomed."""
        with self.change() as db:
            _remove(db, collection, document_id)

    def passages(self, ids: list[int]) -> dict[int, Stored]:
        """Passages by id; those that are gone are left out."""
        found: dict[int, Stored] = {}
        for begin in range(0, len(ids), 500):
            part = ids[begin : begin + 500]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"{_STORED} WHERE p.id IN ({marks})", part)
            found.update((row[0], Stored(*row)) for row in rows)
        return found

    def document_passages(self, document_id: int, first: int = 0, last: int = 2**31) -> list[Stored]:
        """Passages of a document in order, of the ordinals `first` to `last`."""
        rows = self._db.execute(
            f"{_STORED} WHERE p.document_id = ? AND p.ordinal BETWEEN ? AND ? ORDER BY p.ordinal",
            (document_id, first, last),
        )
        return [Stored(*row) for row in rows]

    @property
    def db(self) -> sqlite3.Connection:
        """For reading, by the modules beside this one."""
        return self._db


_FTS = "terms, tokenize=\"unicode61 remove_diacritics 0 tokenchars '._/+:@#=-'\""
_COLLECTION = "id, name, owner, embedder, generation, version, chunk_chars, created"
_STORED = (
    'SELECT p.id, p.document_id, d.name, d.source, p.ordinal, p.page, p.last_page, p.heading, p.start, p."end", p.text'
    " FROM passages p JOIN documents d ON d.id = p.document_id"
)


def _typed(row: tuple[Any, ...]) -> Iterator[Any]:
    """A document's columns, the JSON list read and the counts made numbers."""
    yield from row[:7]
    yield json.loads(row[7])
    yield from (bool(row[8]), row[9], row[10], row[11] or 0)


def _remove(db: sqlite3.Connection, collection: Collection, document_id: int) -> None:
    ids = [(row[0],) for row in db.execute("SELECT id FROM passages WHERE document_id = ?", (document_id,))]
    db.executemany(f'DELETE FROM "{table_of(collection.id)}" WHERE rowid = ?', ids)
    db.executemany("INSERT OR IGNORE INTO doomed VALUES (?, ?)", [(collection.chroma, row[0]) for row in ids])
    db.execute("DELETE FROM documents WHERE id = ?", (document_id,))


def forget_vectors(db: sqlite3.Connection) -> None:
    db.execute("DELETE FROM vectors WHERE NOT EXISTS (SELECT 1 FROM passages p WHERE p.hash = vectors.hash)")


def _store_error(error: sqlite3.OperationalError) -> StoreError:
    if "full" in str(error) or "disk I/O" in str(error):
        return StoreError(
            say(
                "디스크가 가득 찼습니다. 이미 저장한 문서는 그대로입니다", "the disk is full; what was stored is intact"
            ),
            say("자리를 비우고 같은 명령을 다시 실행하세요", "free some space and run the same command again"),
        )
    return StoreError(
        say(f"문서 저장소에 쓸 수 없습니다: {error}", f"the document store cannot be written: {error}"),
        say("GAMYEON_HOME의 권한과 빈 자리를 확인하세요", "check GAMYEON_HOME's permissions and free space"),
    )
