"""Answers that were paid for, kept: an append-only file, each line on the disk before its answer is used."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from personas.lang import say
from tune.formats.base import DataError


@dataclass(frozen=True)
class Answer:
    """What a model said: tokens of the prompt and of the answer, and whether it was cut off at its limit."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut_off: bool = False


class Journal:
    """Answers by the key of their request; memory holds keys and places alone.

    A kill may leave half a line at the end. It is taken off: its answer was never used, and nothing follows it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("a+b")
        self._places: dict[bytes, int] = {}
        self.prompt_tokens = self.completion_tokens = 0
        self._load()

    def _load(self) -> None:
        self._file.seek(0)
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                self._note(json.loads(line), end)
            except (ValueError, KeyError, TypeError):
                self._file.close()
                raise DataError(f"{self._path}: " + say("기록장이 깨졌습니다", "the journal is damaged")) from None
            end += len(line)
        self._file.truncate(end)

    def _note(self, entry: dict[str, Any], place: int) -> None:
        self._places[bytes.fromhex(entry["key"])] = place
        self.prompt_tokens += entry["prompt_tokens"]
        self.completion_tokens += entry["completion_tokens"]

    def get(self, key: bytes) -> Answer | None:
        """The answer to a request that was made before."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place)
        entry = json.loads(self._file.readline())
        return Answer(entry["text"], entry["prompt_tokens"], entry["completion_tokens"], entry["cut_off"])

    def add(self, key: bytes, answer: Answer) -> None:
        """Keep an answer; it is on the disk when this returns.

        Raises:
            DataError: the disk is full; what was there before still is.
        """
        place = os.fstat(self._file.fileno()).st_size
        entry = {"key": key.hex(), **answer.__dict__}
        try:
            self._append(json.dumps(entry, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            os.ftruncate(self._file.fileno(), place)
            raise DataError(
                f"{self._path}: {error.strerror}",
                say("자리를 비우고 같은 명령을 다시 하면 이어서 합니다", "make room, then the same command goes on"),
            ) from error
        self._note(entry, place)

    def _append(self, line: bytes) -> None:
        left = memoryview(line)
        while left:
            left = left[os.write(self._file.fileno(), left) :]
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def key_of(*parts: Any) -> bytes:
    """What tells one request from another: 16 bytes."""
    return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()


def journal_path(out: Path) -> Path:
    """Where the answers for an output are kept."""
    return out.with_name(f".{out.name}.answers.jsonl")


@contextlib.contextmanager
def journal_of(out: Path) -> Iterator[Journal]:
    """The journal beside an output, held by one process alone.

    Raises:
        DataError: another process is making the same output.
    """
    path = journal_path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=0):
            with contextlib.closing(Journal(path)) as journal:
                yield journal
            Path(f"{path}.lock").unlink(missing_ok=True)
    except Timeout:
        raise DataError(say(f"{out}을(를) 이미 만들고 있습니다", f"{out} is being made already")) from None
