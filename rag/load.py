"""A file to its raw pages: what it really is, then its reader in a child process with time and memory limits."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rag.pages import Block, Line, Outline, Parsed, RawPage
from rag.refusals import file_error
from rag.settings import RagSettings

SUFFIXES = {".pdf": "pdf", ".txt": "txt", ".md": "md", ".markdown": "md", ".docx": "docx", ".hwpx": "hwpx"}
Progress = Callable[[int], None]


def load(path: Path, settings: RagSettings, ocr: bool = False, progress: Progress | None = None) -> Parsed:
    """Read one file.

    Args:
        progress: called with the number of pages read so far.

    Raises:
        FileError: the file is refused; `code` says why.
    """
    kind = kind_of(path, settings)
    job = {
        "path": str(path), "kind": kind, "ocr": ocr, "max_pages": settings.max_pages,
        "memory_mib": settings.parse_memory_mib, "seconds": settings.parse_seconds,
        "text_limit": settings.max_text_mib * 2**20 * 4,
    }  # fmt: skip
    child = subprocess.Popen(
        [sys.executable, "-m", "rag.child", json.dumps(job)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    timer = threading.Timer(settings.parse_seconds, child.kill)
    timer.start()
    try:
        assert child.stdout
        parsed, end = _collect(child.stdout, progress or (lambda _: None))
        child.wait()
    finally:
        timed_out = not timer.is_alive()
        timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()
        if child.stdout:
            child.stdout.close()
    if end is None:
        end = {"code": "timeout" if timed_out or child.returncode == -24 else "crashed", "detail": ""}
    if "code" in end:
        raise file_error(end["code"], path, end["detail"], settings)
    parsed.title = parsed.title or path.stem
    return parsed


def _collect(stream: IO[bytes], progress: Progress) -> tuple[Parsed, dict[str, str] | None]:
    parsed = Parsed()
    for raw in stream:
        name, value = json.loads(raw)
        if name == "RawPage":
            parsed.pages.append(_page(value))
            progress(len(parsed.pages))
        elif name == "Outline":
            parsed.outline.append(Outline(**value))
        else:
            return parsed, value
    return parsed, None


def _page(value: dict[str, Any]) -> RawPage:
    lines = [Line(**line) for line in value.pop("lines")]
    blocks = [Block(**block) for block in value.pop("blocks")]
    return RawPage(**value, lines=lines, blocks=blocks)


def kind_of(path: Path, settings: RagSettings) -> str:
    """What a file is by its first bytes, which must agree with its name.

    Raises:
        FileError: not a document that we read, empty, too large, or its name says something else.
    """
    named = SUFFIXES.get(path.suffix.lower())
    if named is None:
        raise file_error("unsupported", path, path.suffix or "-", settings)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError as error:
        raise file_error("permission", path, error.strerror or "", settings) from error
    if size == 0:
        raise file_error("empty", path, "", settings)
    if size > settings.max_file_mib * 2**20:
        raise file_error("too_large", path, f"{size / 2**20:.0f} MiB", settings)
    really = _by_content(head)
    if really == "old_office":
        raise file_error("old_office", path, "", settings)
    if {"pdf": "pdf", "docx": "zip", "hwpx": "zip"}.get(named, "other") != really:
        raise file_error("wrong_type", path, really, settings)
    return named


def _by_content(head: bytes) -> str:
    # Readers accept a PDF whose header lies anywhere in the first 1024 bytes (ISO 32000-1, annex H.3, note 13).
    if b"%PDF-" in head:
        return "pdf"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    return "old_office" if head.startswith(b"\xd0\xcf\x11\xe0") else "other"
