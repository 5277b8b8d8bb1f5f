"""Who may ask for what, and how much: API keys, their scopes and their limits.

A key is shown once, when it is made; the database holds its SHA-256. (A slow hash would buy nothing: a key is 256
random bits.) The hot path looks into memory alone; a thread reads the table again when the database has changed.
"""

import asyncio
import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from personas.database import connect
from serve.errors import Forbidden, RateLimited, Unauthorized

Scope = Literal["chat", "documents", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_PREFIX = "gy-"
_REFRESH_SECONDS = 1.0
_MISS_SECONDS = 0.2  # an unknown key makes the table be read again, at most this often
_GUESS_MEMORY = 60.0  # seconds after which a client's wrong keys are forgotten
_MAX_DELAYED = 64  # wrong keys that wait for their answer at a time
_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, sha256 BLOB NOT NULL UNIQUE, scopes TEXT NOT NULL, limits TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ')), revoked TEXT
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Limits:
    """What a key may use; None: no limit. Tokens are prompt and reply together."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    personas: tuple[str, ...] | None = None


class Bucket:
    """A token bucket of a minute's allowance, which may go into debt."""

    def __init__(self, per_minute: int) -> None:
        self._size = per_minute
        self._left = float(per_minute)
        self._at = time.monotonic()

    def wait(self) -> float:
        """Seconds until there is something left; 0 if there is."""
        now = time.monotonic()
        self._left = min(self._size, self._left + (now - self._at) * self._size / 60)
        self._at = now
        # Not 1: a bucket of one a minute would never be full enough after rounding.
        return 0.0 if self._left > 0.999 else (1 - self._left) * 60 / self._size

    def take(self, count: int) -> None:
        self._left -= count


@dataclass
class Key:
    """An API key as the gateway knows it, and how much of its limits is used in this process."""

    id: str
    name: str
    scopes: frozenset[str]
    limits: Limits
    created: str = ""
    revoked: str | None = None
    in_flight: int = 0
    requests: Bucket | None = field(init=False)
    tokens: Bucket | None = field(init=False)

    def __post_init__(self) -> None:
        self.requests = Bucket(self.limits.requests_per_minute) if self.limits.requests_per_minute else None
        self.tokens = Bucket(self.limits.tokens_per_minute) if self.limits.tokens_per_minute else None

    def shown(self) -> dict[str, object]:
        """What an administrator sees."""
        limits = {k: v for k, v in asdict(self.limits).items() if v is not None}
        return {
            "id": self.id, "name": self.name, "scopes": sorted(self.scopes), "limits": limits,
            "created": self.created, "revoked": self.revoked,
        }  # fmt: skip

    def enter(self) -> None:
        """Count a request in; `leave` must follow.

        Raises:
            RateLimited: one of the limits is reached.
        """
        if self.limits.concurrency is not None and self.in_flight >= self.limits.concurrency:
            raise RateLimited(f"this key has {self.in_flight} requests at work, its limit", retry_after=1)
        for bucket, what in ((self.requests, "requests"), (self.tokens, "tokens")):
            if bucket is not None and (seconds := bucket.wait()):
                raise RateLimited(f"this key's limit of {what} a minute is reached", retry_after=int(seconds) + 1)
        if self.requests is not None:
            self.requests.take(1)
        self.in_flight += 1

    def leave(self, tokens: int) -> None:
        self.in_flight -= 1
        if self.tokens is not None:
            self.tokens.take(tokens)

    def may_ask(self, persona: str) -> None:
        """
        Raises:
            Forbidden: the key is for other personas.
        """
        if self.limits.personas is not None and persona not in self.limits.personas:
            raise Forbidden(f"this key may not ask for '{persona}'", param="model")


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


class KeyStore:
    """The table of keys in the database."""

    def __init__(self, database: Path) -> None:
        self._db = connect(database, timeout=5)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def create(self, name: str, scopes: frozenset[str], limits: Limits) -> tuple[str, Key]:
        """A new key: its secret, which nothing can show again, and its record."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        key_id = secrets.token_hex(4)
        self._db.execute(
            "INSERT INTO keys (id, name, sha256, scopes, limits) VALUES (?, ?, ?, ?, ?)",
            (key_id, name, _digest(secret), " ".join(sorted(scopes)), json.dumps(asdict(limits))),
        )
        return secret, next(key for key in self.all().values() if key.id == key_id)

    def revoke(self, key_id: str) -> bool:
        """Whether there was such a key, in use until now."""
        query = "UPDATE keys SET revoked = strftime('%Y-%m-%dT%H:%M:%SZ') WHERE id = ? AND revoked IS NULL"
        return self._db.execute(query, (key_id,)).rowcount > 0

    def all(self) -> dict[bytes, Key]:
        """Every key ever made, by its hash."""
        rows = self._db.execute("SELECT sha256, id, name, scopes, limits, created, revoked FROM keys ORDER BY created")
        found: dict[bytes, Key] = {}
        for digest, key_id, name, scopes, limits, created, revoked in rows:
            given = json.loads(limits)
            given["personas"] = tuple(given["personas"]) if given["personas"] is not None else None
            found[digest] = Key(key_id, name, frozenset(scopes.split()), Limits(**given), created, revoked)
        return found

    def changed(self) -> int:
        """A number that another connection's commit changes."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])


class Access:
    """The keys in memory.

    Args:
        required: keys are needed even if none was ever made (any address but loopback).
    """

    def __init__(self, database: Path, required: bool) -> None:
        self.store = KeyStore(database)
        self._required = required
        self._keys = self.store.all()
        self._own: dict[bytes, Key] = {}
        self._seen = self.store.changed()
        self._read_at = 0.0
        self._lock = asyncio.Lock()
        self._guesses: dict[str, tuple[int, float]] = {}
        self._delayed = 0

    @property
    def required(self) -> bool:
        """Keys are asked for from the first that is ever made on, also when all are revoked."""
        return self._required or bool(self._keys)

    def own_key(self, name: str, scopes: frozenset[str]) -> str:
        """A key that lives as long as this process: the chat page's."""
        secret = _PREFIX + secrets.token_urlsafe(32)
        self._own[_digest(secret)] = Key("own-" + name, name, scopes, Limits())
        return secret

    def reload(self) -> None:
        """Read the table; keys that are still there keep their counts."""
        counts = {key.id: key for key in self._keys.values()}
        fresh = self.store.all()
        for digest, key in fresh.items():
            old = counts.get(key.id)
            if old and not key.revoked:
                fresh[digest] = old
        self._keys = fresh

    async def keep_fresh(self) -> None:
        """Follow changes of the table until cancelled; a locked or full database leaves the keys as they were."""
        while True:
            await asyncio.sleep(_REFRESH_SECONDS)
            with contextlib.suppress(sqlite3.Error):
                await self._refresh()

    async def _refresh(self) -> None:
        async with self._lock:
            seen = await asyncio.to_thread(self.store.changed)
            if seen != self._seen:
                await asyncio.to_thread(self.reload)
                self._seen = seen

    async def check(self, authorization: bytes, scope: str, client: str) -> Key | None:
        """The key of a request, or None where none is needed.

        Raises:
            Unauthorized: no key, or a wrong or revoked one; the answer to a guess comes ever later.
            Forbidden: the key lacks the scope.
        """
        if not self.required:
            return None
        digest = hashlib.sha256(authorization[7:]).digest()  # after "Bearer "
        key = self._keys.get(digest) or self._own.get(digest)
        if key is None and authorization and time.monotonic() - self._read_at > _MISS_SECONDS:
            self._read_at = time.monotonic()
            with contextlib.suppress(sqlite3.Error):
                await self._refresh()
            key = self._keys.get(digest)
        # What is compared in memory is a hash of the guess: how long it takes says nothing of any key.
        if key is None or key.revoked or authorization[:7].lower() != b"bearer ":
            if authorization:
                await self._slow_down(client)
            # OpenAI's words: LiteLLM looks for them, and takes every other `invalid_request_error` for a 400.
            raise Unauthorized("Incorrect API key provided, or none; send Authorization: Bearer gy-…")
        if scope not in key.scopes and scope != "any":
            raise Forbidden(f"this key lacks the scope '{scope}'")
        return key

    async def _slow_down(self, client: str) -> None:
        now = time.monotonic()
        if len(self._guesses) > 10_000:
            self._guesses = {who: seen for who, seen in self._guesses.items() if now - seen[1] < _GUESS_MEMORY}
        count, at = self._guesses.get(client, (0, now))
        count = count + 1 if now - at < _GUESS_MEMORY else 1
        self._guesses[client] = (count, now)
        if self._delayed >= _MAX_DELAYED:
            raise RateLimited("too many wrong keys", retry_after=10)
        self._delayed += 1
        try:
            await asyncio.sleep(min(2.0, 0.02 * 2 ** min(count, 7)))
        finally:
            self._delayed -= 1

    def close(self) -> None:
        self.store.close()
