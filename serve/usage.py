"""What was used, by day, key and persona version: counted in memory, written in batches, read by `serve usage`."""

import asyncio
import logging
import sqlite3
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from personas.database import connect

log = logging.getLogger(__name__)
_FLUSH_SECONDS = 2.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS usage (
    day TEXT NOT NULL, key TEXT NOT NULL, persona TEXT NOT NULL, version INTEGER NOT NULL,
    requests INTEGER NOT NULL, errors INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    PRIMARY KEY (day, key, persona, version)
) WITHOUT ROWID;
"""
_ADD = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    requests = requests + excluded.requests, errors = errors + excluded.errors,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens
"""
_Where = tuple[str, str, str, int]


class Usage:
    """Counts of this process that have not been written yet, and the table of those that have.

    A kill loses at most the last two seconds. While the database is locked or the disk full the counts stay in
    memory, where they need a row a key and persona version.
    """

    def __init__(self, database: Path) -> None:
        self._db = connect(database, timeout=2)
        self._db.executescript(_SCHEMA)
        self._counts: defaultdict[_Where, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
        self._failing = False

    def add(self, key: str, persona: str, version: int, failed: bool, prompt: int, completion: int) -> None:
        """Count one request; `key` and `version` are "" and 0 where there is none."""
        count = self._counts[datetime.now(UTC).date().isoformat(), key, persona, version]
        count[0] += 1
        count[1] += failed
        count[2] += prompt
        count[3] += completion

    def flush(self) -> None:
        """Write the counts in one transaction.

        Raises:
            sqlite3.Error: locked, or the disk is full; nothing is lost.
        """
        if not self._counts:
            return
        taken, self._counts = self._counts, defaultdict(lambda: [0, 0, 0, 0])
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(_ADD, [(*where, *count) for where, count in taken.items()])
            self._db.execute("COMMIT")
        except sqlite3.Error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            for where, count in taken.items():
                self._counts[where] = [a + b for a, b in zip(self._counts[where], count, strict=True)]
            raise

    async def keep_writing(self) -> None:
        """Flush every two seconds until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await asyncio.to_thread(self.flush)
                self._failing = False
            except sqlite3.Error as error:
                if not self._failing:
                    log.warning("usage cannot be written and stays in memory: %s", error)
                self._failing = True

    def rows(self, days: int) -> list[dict[str, Any]]:
        """The last days, newest first, with the keys' names where the table of keys has them."""
        query = (
            "SELECT day, usage.key, COALESCE(keys.name, usage.key) AS name, persona, version, requests, errors,"
            " prompt_tokens, completion_tokens FROM usage LEFT JOIN keys ON keys.id = usage.key"
            " WHERE day > date('now', ?) ORDER BY day DESC, requests DESC"
        )
        cursor = self._db.execute(query, (f"-{days} days",))
        columns = [column[0] for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor]

    def close(self) -> None:
        try:
            self.flush()
        except sqlite3.Error as error:
            log.warning("the last usage is lost: %s", error)
        self._db.close()
