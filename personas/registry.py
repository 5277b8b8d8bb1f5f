"""Which version of a persona is live, and how it came to be: one SQLite database that any number of processes share.

The store's folders say which versions exist; the registry admits them by name, says which one the public name means
(the alias) and keeps the history. A move of the alias is one transaction.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from personas.adapters import AdapterStore, version_id
from personas.errors import RegistryError
from personas.lang import say

_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    persona TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (persona, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS live (
    persona TEXT PRIMARY KEY, version INTEGER NOT NULL,
    FOREIGN KEY (persona, version) REFERENCES versions (persona, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, persona TEXT NOT NULL, version INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')), who TEXT NOT NULL, why TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Move:
    """One move of a persona's alias: when (UTC), by whom and why."""

    version: int
    at: str
    who: str
    why: str


class Registry:
    """The registry in one database file; safe to use from several processes, and from one thread at a time."""

    def __init__(self, database: Path) -> None:
        self._db = sqlite3.connect(database, timeout=10, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def live(self, persona: str) -> int | None:
        """The version that the public name means now, or None if none was promoted."""
        with closing(self._db.execute("SELECT version FROM live WHERE persona = ?", (persona,))) as rows:
            row = rows.fetchone()
        return int(row[0]) if row else None

    def has(self, persona: str, version: int) -> bool:
        """Whether a version may be asked for by name."""
        query = "SELECT 1 FROM versions WHERE persona = ? AND version = ?"
        return self._db.execute(query, (persona, version)).fetchone() is not None

    def versions(self, persona: str) -> list[int]:
        rows = self._db.execute("SELECT version FROM versions WHERE persona = ? ORDER BY version", (persona,))
        return [int(row[0]) for row in rows]

    def history(self, persona: str) -> list[Move]:
        """Every move of the alias, oldest first."""
        query = "SELECT version, at, who, why FROM history WHERE persona = ? ORDER BY id"
        return [Move(*row) for row in self._db.execute(query, (persona,))]

    def add(self, persona: str, version: int) -> None:
        """Admit a published version by name."""
        self._db.execute("INSERT OR IGNORE INTO versions VALUES (?, ?)", (persona, version))

    def promote(self, persona: str, version: int, who: str, why: str) -> None:
        """Make a version live, in one transaction.

        Raises:
            RegistryError: the version was never added.
        """
        if not self.has(persona, version):
            name = version_id(persona, version)
            raise RegistryError(say(f"{name}이(가) 등록되어 있지 않습니다", f"{name} is not registered"), "personas ls")
        with self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO live VALUES (?, ?)", (persona, version))
            db.execute(
                "INSERT INTO history (persona, version, who, why) VALUES (?, ?, ?, ?)", (persona, version, who, why)
            )

    def reconcile(self, store: AdapterStore) -> None:
        """Admit whole versions of the store that a kill between publish and add left out."""
        for persona, version in store.versions():
            self.add(persona, version)
