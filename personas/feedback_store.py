"""What users thought of answers: thumbs, reasons and corrections, in the registry's database.

Content (conversation, answer, correction, reason) is there only where the user agreed; without consent a row holds a
thumb and the version that it is about. Users are kept as hashes. Deleted content is overwritten (`secure_delete`).
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from personas.database import connect

Thumb = Literal["up", "down"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS feedback (
    answer TEXT PRIMARY KEY, persona TEXT NOT NULL, version INTEGER, user TEXT NOT NULL, consent INTEGER NOT NULL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ')), thumb TEXT, content TEXT
);
CREATE INDEX IF NOT EXISTS feedback_by_user ON feedback (user);
"""


class Content(BaseModel):
    """What was said; kept with consent alone, personal data masked by who puts it here."""

    model_config = ConfigDict(extra="forbid")

    messages: list[dict[str, str]]
    answer: str
    reason: str | None = None
    correction: str | None = None
    grounded: bool = False  # answered from passages, which are not kept: they may be another's
    failures: list[str] = []  # answers that the language guard threw away on the way to this one


class Feedback(BaseModel):
    """One user's word on one answer."""

    model_config = ConfigDict(extra="forbid")

    answer: str
    persona: str
    version: int | None
    user: str
    consent: bool
    at: str = ""
    thumb: Thumb | None = None
    content: Content | None = None


def user_hash(user: str) -> str:
    """What the database knows of a user."""
    return hashlib.sha256(f"gamyeon-user\0{user}".encode()).hexdigest()[:32]


class FeedbackStore:
    """The feedback table; safe to use from several processes, and from several threads."""

    def __init__(self, database: Path) -> None:
        self._file = database
        self._turn = threading.Lock()
        self._db = connect(database, timeout=10)
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA secure_delete = ON")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def put(self, feedback: Feedback) -> None:
        """Store one; a later word on the same answer adds to the earlier, and one without consent takes content back.

        Args:
            feedback: `user` is the name as given; its hash is stored. `at` is set here.
        """
        content = feedback.content.model_dump_json(exclude_none=True) if feedback.content and feedback.consent else None
        with self._turn:
            self._db.execute(
                """INSERT INTO feedback (answer, persona, version, user, consent, thumb, content)
                   VALUES (?, ?, ?, ?, ?, ?, ?)
                   ON CONFLICT (answer) DO UPDATE SET
                       user = excluded.user, consent = excluded.consent, at = excluded.at,
                       thumb = coalesce(excluded.thumb, thumb),
                       content = CASE WHEN excluded.consent
                           THEN json_patch(coalesce(content, '{}'), coalesce(excluded.content, '{}')) END""",
                (
                    feedback.answer,
                    feedback.persona,
                    feedback.version,
                    user_hash(feedback.user),
                    feedback.consent,
                    feedback.thumb,
                    content,
                ),
            )

    def all(self, persona: str | None = None, user: str | None = None) -> Iterator[Feedback]:
        """Every word, oldest first; of one persona or one user where asked."""
        query = """SELECT answer, persona, version, user, consent, at, thumb, content FROM feedback
                   WHERE (?1 IS NULL OR persona = ?1) AND (?2 IS NULL OR user = ?2) ORDER BY at, answer"""
        for row in self._db.execute(query, (persona, user_hash(user) if user else None)):
            fields: dict[str, Any] = dict(zip(Feedback.model_fields, row, strict=True))
            fields["content"] = json.loads(row[-1]) if row[-1] else None
            yield Feedback.model_validate(fields)

    def erase(self, user: str) -> tuple[int, int]:
        """Delete everything of a user, overwrite it on the disk, and look for what may be left.

        Returns:
            The number of rows deleted, and of the user's texts still found in the bytes of the database's files
            (texts that other users' rows hold, too, are not looked for): 0 is the proof.
        """
        with self._turn:
            gone = list(self.all(user=user))
            self._db.execute("DELETE FROM feedback WHERE user = ?", (user_hash(user),))
            self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            kept = {text for feedback in self.all() for text in _texts(feedback)}
            wanted = {text for feedback in gone for text in _texts(feedback)} | {user_hash(user)}
            files = [self._file, self._file.with_name(self._file.name + "-wal")]
            found = b"\0".join(file.read_bytes() for file in files if file.exists())
        return len(gone), sum(text.encode() in found for text in wanted - kept)


def _texts(feedback: Feedback) -> Iterator[str]:
    """Every text of a word as its JSON in the database has it; texts of a few letters prove nothing."""
    yield feedback.answer
    if content := feedback.content:
        said = [m["content"] for m in content.messages]
        for text in (*said, content.answer, content.reason, content.correction, *content.failures):
            if text and len(text) >= 8:
                yield json.dumps(text, ensure_ascii=False)[1:-1]
