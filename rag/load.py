"""A file to its raw pages: what it really is, then its reader in a child process with time and memory limits."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from personas.lang import say
from rag.errors import FileError
from rag.pages import Block, Line, Outline, Parsed, RawPage
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


def file_error(code: str, path: Path, detail: str, settings: RagSettings) -> FileError:
    """The message for one refused file."""
    ko, en, hint_ko, hint_en = _MESSAGES.get(code, _MESSAGES["damaged"])
    values = {"detail": detail, "seconds": settings.parse_seconds, "memory": settings.parse_memory_mib,
              "pages": settings.max_pages, "size": settings.max_file_mib}  # fmt: skip
    return FileError(code, f"{path}: " + say(ko, en).format(**values), say(hint_ko, hint_en).format(**values))


_KINDS = "pdf, txt, md, docx, hwpx"
_MESSAGES = {
    "unsupported": (f"읽을 수 없는 종류입니다 ({{detail}}); {_KINDS}만 읽습니다", f"not a kind that is read ({{detail}}); only {_KINDS}", "PDF로 바꾸어 다시 넣으세요", "convert it to PDF and ingest again"),
    "permission": ("열 수 없습니다: {detail}", "cannot be opened: {detail}", "파일 권한을 확인하세요", "check the file's permissions"),
    "empty": ("빈 파일(0바이트)입니다", "the file is empty (0 bytes)", "원본을 다시 받으세요", "get the original again"),
    "too_large": ("파일이 너무 큽니다: {detail} (한도 {size} MiB)", "the file is too large: {detail} (limit {size} MiB)", "GAMYEON_RAG_MAX_FILE_MIB로 한도를 올리세요", "raise the limit: GAMYEON_RAG_MAX_FILE_MIB"),
    "old_office": ("옛 형식(doc, hwp)이거나 암호가 걸린 오피스 문서입니다", "an old office format (doc, hwp) or an encrypted office file", "docx, hwpx 또는 PDF로 저장하세요", "save it as docx, hwpx or PDF"),
    "wrong_type": ("내용이 확장자와 다릅니다 (내용: {detail})", "the content is not what the name says (content: {detail})", "확장자를 바로잡으세요", "correct the file's extension"),
    "not_text": ("글자로 읽을 수 없습니다 (UTF-8도 CP949도 아닙니다)", "not readable as text (neither UTF-8 nor CP949)", "UTF-8로 저장하세요", "save it as UTF-8"),
    "encrypted": ("암호가 걸려 있습니다", "the file is encrypted", "암호를 풀어 저장한 뒤 다시 넣으세요", "remove the password and ingest again"),
    "damaged": ("파일이 깨졌거나 잘렸습니다: {detail}", "the file is damaged or cut off: {detail}", "원본을 다시 받으세요", "get the original again"),
    "too_many_pages": ("쪽이 너무 많습니다: {detail}쪽 (한도 {pages})", "too many pages: {detail} (limit {pages})", "나누거나 GAMYEON_RAG_MAX_PAGES로 한도를 올리세요", "split it, or raise GAMYEON_RAG_MAX_PAGES"),
    "bomb": ("풀면 지나치게 커지는 파일입니다 (압축 폭탄): {detail}", "unpacks to far too much (a decompression bomb): {detail}", "믿을 수 있는 파일인지 확인하세요", "check that the file can be trusted"),
    "memory": ("읽는 데 메모리를 {memory} MiB 넘게 씁니다", "needs more than {memory} MiB of memory to read", "믿을 수 있는 파일이면 GAMYEON_RAG_PARSE_MEMORY_MIB를 올리세요", "if you trust it, raise GAMYEON_RAG_PARSE_MEMORY_MIB"),
    "timeout": ("읽는 데 {seconds}초가 넘게 걸립니다", "takes longer than {seconds} s to read", "나누거나 GAMYEON_RAG_PARSE_SECONDS를 올리세요", "split it, or raise GAMYEON_RAG_PARSE_SECONDS"),
    "crashed": ("읽는 중에 판독기가 죽었습니다 (깨졌거나 메모리 {memory} MiB를 넘음)", "the reader died on it (damaged, or more than {memory} MiB of memory)", "다른 프로그램으로 다시 저장하세요", "save it again with another program"),
    "no_text": ("글자가 있는 쪽이 없습니다 (스캔한 문서)", "no page has text (a scan)", "rag ingest --ocr (tesseract-ocr-kor 필요)", "rag ingest --ocr (needs tesseract-ocr-kor)"),
    "empty_text": ("글자가 없습니다", "it holds no text", "원본을 확인하세요", "check the original"),
    "missing": ("그런 파일이 없습니다", "no such file", "경로를 확인하세요", "check the path"),
    "no_tesseract": ("Tesseract가 없어 스캔을 읽을 수 없습니다", "Tesseract is not installed, so scans cannot be read", "apt-get install tesseract-ocr-kor", "apt-get install tesseract-ocr-kor"),
    "ocr_failed": ("글자 인식이 실패했습니다: {detail}", "character recognition failed: {detail}", "tesseract --list-langs에 kor가 있는지 확인하세요", "check that tesseract --list-langs shows kor"),
    "outside": ("폴더 밖을 가리키는 링크라서 건너뜁니다", "skipped: a link that leads out of the folder", "그 파일을 직접 지정하세요: rag ingest {detail}", "name it yourself: rag ingest {detail}"),
}  # fmt: skip
