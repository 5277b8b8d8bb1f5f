"""Which version of a persona is live, and how it came to be: one SQLite database that any number of processes share.

The store's folders say which versions exist; the registry admits them by name, says which one the public name means
(the alias), which one a share of the users gets instead (the canary), and keeps the history. Every move is one
transaction, and nothing of it is kept in memory: all gateways over one database agree at the next request.
"""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from personas.adapters import AdapterStore, version_id
from personas.database import connect
from personas.errors import RegistryError
from personas.lang import say

Action = Literal["promote", "rollback", "canary", "canary-end", "refuse"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    persona TEXT NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (persona, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS live (
    persona TEXT PRIMARY KEY, version INTEGER NOT NULL,
    FOREIGN KEY (persona, version) REFERENCES versions (persona, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS canaries (
    persona TEXT PRIMARY KEY, version INTEGER NOT NULL, weight REAL NOT NULL CHECK (weight > 0 AND weight <= 100),
    FOREIGN KEY (persona, version) REFERENCES versions (persona, version)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS history (
    id INTEGER PRIMARY KEY, persona TEXT NOT NULL, version INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')), who TEXT NOT NULL, why TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class Move:
    """One move: when (UTC), by whom and why; `weight` is a canary's share of users in percent."""

    version: int
    at: str
    who: str
    why: str
    action: Action = "promote"
    weight: float | None = None


@dataclass(frozen=True)
class Route:
    """Whom a public name means at one moment: the live version, and a canary with its share of users in percent."""

    persona: str
    live: int | None
    canary: int | None = None
    weight: float = 0.0

    def version_for(self, user: str) -> int | None:
        """The version that answers this user: the same one as long as the canary stands, whatever gateway is asked.

        Raising the weight keeps everybody who has the canary already.
        """
        if self.canary is None:
            return self.live
        digest = hashlib.sha256(f"{version_id(self.persona, self.canary)}\0{user}".encode()).digest()
        return self.canary if int.from_bytes(digest[:8]) < self.weight / 100 * 2**64 else self.live


class Registry:
    """The registry in one database file; safe to use from several processes, and from one thread at a time."""

    def __init__(self, database: Path) -> None:
        self._db = connect(database, timeout=10)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA foreign_keys = ON")
        self._db.executescript(_SCHEMA)
        self._migrate()

    def _migrate(self) -> None:
        """Give a history of the first release its action and weight."""

        def is_old() -> bool:
            return "action" not in {row[1] for row in self._db.execute("PRAGMA table_info(history)")}

        if not is_old():
            return
        with self._transaction() as db:
            if is_old():  # no other process was faster
                db.execute("ALTER TABLE history ADD COLUMN action TEXT NOT NULL DEFAULT 'promote'")
                db.execute("ALTER TABLE history ADD COLUMN weight REAL")

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

    def route(self, persona: str) -> Route:
        """Live version and canary, read together."""
        query = """SELECT live.version, canaries.version, canaries.weight
                   FROM live LEFT JOIN canaries USING (persona) WHERE persona = ?"""
        row = self._db.execute(query, (persona,)).fetchone()
        return Route(persona, row[0], row[1], row[2] or 0.0) if row else Route(persona, None)

    def has(self, persona: str, version: int) -> bool:
        """Whether a version may be asked for by name."""
        query = "SELECT 1 FROM versions WHERE persona = ? AND version = ?"
        return self._db.execute(query, (persona, version)).fetchone() is not None

    def versions(self, persona: str) -> list[int]:
        rows = self._db.execute("SELECT version FROM versions WHERE persona = ? ORDER BY version", (persona,))
        return [int(row[0]) for row in rows]

    def history(self, persona: str) -> list[Move]:
        """Every move, oldest first."""
        query = "SELECT version, at, who, why, action, weight FROM history WHERE persona = ? ORDER BY id"
        return [Move(*row) for row in self._db.execute(query, (persona,))]

    def add(self, persona: str, version: int) -> None:
        """Admit a published version by name."""
        self._db.execute("INSERT OR IGNORE INTO versions VALUES (?, ?)", (persona, version))

    def promote(self, persona: str, version: int, who: str, why: str) -> None:
        """Make a version live, which ends a canary, in one transaction.

        Raises:
            RegistryError: the version was never added.
        """
        with self._transaction() as db:
            self._must_have(persona, version)
            self._set_live(db, persona, version)
            self._record(persona, version, who, why, "promote")

    def canary(self, persona: str, version: int, weight: float, who: str, why: str) -> None:
        """Let a share of the users, in percent, talk to a version; 0 ends the canary.

        Raises:
            RegistryError: the version was never added, is the live one, there is no live one, or no such share.
        """
        if not 0 <= weight <= 100:
            raise RegistryError(
                say(f"비율은 0%에서 100% 사이입니다: {weight:g}", f"the weight is 0 % to 100 %, not {weight:g}"),
                f"personas canary {version_id(persona, version)} --weight 10%",
            )
        with self._transaction() as db:
            self._must_have(persona, version)
            live = self.live(persona)
            if weight and live in (None, version):
                name = version_id(persona, version)
                raise RegistryError(
                    say(f"{name}은(는) 카나리가 될 수 없습니다: ", f"{name} cannot be a canary: ")
                    + (
                        say("라이브 버전이 없습니다", "nothing is live")
                        if live is None
                        else say("라이브", "it is live")
                    ),
                    f"personas versions {persona}",
                )
            db.execute("DELETE FROM canaries WHERE persona = ?", (persona,))
            if weight:
                db.execute("INSERT INTO canaries VALUES (?, ?, ?)", (persona, version, weight))
            self._record(persona, version, who, why, "canary" if weight else "canary-end", weight)

    def rollback(self, persona: str, who: str, why: str) -> Route:
        """Undo what stands: a canary if there is one, else the promotion of the live version.

        Returns:
            The route as it is now.

        Raises:
            RegistryError: there is nothing to go back to.
        """
        with self._transaction() as db:
            route = self.route(persona)
            if route.canary is not None:
                db.execute("DELETE FROM canaries WHERE persona = ?", (persona,))
                self._record(persona, route.canary, who, why, "canary-end", 0.0)
            else:
                version = before(self.history(persona))
                if version is None:
                    raise RegistryError(
                        say(f"{persona}: 되돌아갈 버전이 없습니다", f"{persona}: no version to go back to"),
                        f"personas versions {persona}",
                    )
                self._set_live(db, persona, version)
                self._record(persona, version, who, why, "rollback")
        return self.route(persona)

    def refuse(self, persona: str, version: int, who: str, why: str) -> None:
        """Record that a candidate was kept but did not go live, with the reason."""
        with self._transaction():
            self._must_have(persona, version)
            self._record(persona, version, who, why, "refuse")

    def reconcile(self, store: AdapterStore) -> None:
        """Admit whole versions of the store that a kill between publish and add left out."""
        for persona, version in store.versions():
            self.add(persona, version)

    def _must_have(self, persona: str, version: int) -> None:
        if not self.has(persona, version):
            name = version_id(persona, version)
            raise RegistryError(say(f"{name}이(가) 등록되어 있지 않습니다", f"{name} is not registered"), "personas ls")

    def _set_live(self, db: sqlite3.Connection, persona: str, version: int) -> None:
        db.execute("INSERT OR REPLACE INTO live VALUES (?, ?)", (persona, version))
        db.execute("DELETE FROM canaries WHERE persona = ?", (persona,))

    def _record(
        self, persona: str, version: int, who: str, why: str, action: Action, weight: float | None = None
    ) -> None:
        self._db.execute(
            "INSERT INTO history (persona, version, who, why, action, weight) VALUES (?, ?, ?, ?, ?, ?)",
            (persona, version, who, why, action, weight),
        )


def before(history: list[Move]) -> int | None:
    """The version that a rollback goes to: the one that was live before the live one was promoted."""
    stack: list[int] = []
    for move in history:
        if move.action == "promote" and move.version not in stack[-1:]:
            stack.append(move.version)
        elif move.action == "rollback":
            stack.pop()
    return stack[-2] if len(stack) > 1 else None
