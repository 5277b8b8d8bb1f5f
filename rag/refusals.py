"""Why a file is refused: one message and one next step for each reason."""

from pathlib import Path

from personas.lang import say
from rag.errors import FileError
from rag.settings import RagSettings


def file_error(code: str, path: Path, detail: str, settings: RagSettings) -> FileError:
    """The message for one refused file; a code that is not known counts as damage."""
    ko, en, hint_ko, hint_en = _MESSAGES.get(code, _MESSAGES["damaged"])
    values = {
        "detail": detail,
        "seconds": settings.parse_seconds,
        "memory": settings.parse_memory_mib,
        "pages": settings.max_pages,
        "size": settings.max_file_mib,
    }
    return FileError(code, f"{path}: " + say(ko, en).format(**values), say(hint_ko, hint_en).format(**values))


_AGAIN = ("원본을 다시 받으세요", "get the original again")
# Korean and English, each the message and the next step; {…} is filled in above.
_MESSAGES: dict[str, tuple[str, str, str, str]] = {
    "unsupported": (
        "읽을 수 없는 종류입니다 ({detail}); pdf, txt, md, docx, hwpx만 읽습니다",
        "not a kind that is read ({detail}); only pdf, txt, md, docx, hwpx",
        "PDF로 바꾸어 다시 넣으세요",
        "convert it to PDF and ingest again",
    ),
    "permission": (
        "열 수 없습니다: {detail}",
        "cannot be opened: {detail}",
        "파일 권한을 확인하세요",
        "check the file's permissions",
    ),
    "empty": (
        "빈 파일(0바이트)입니다",
        "the file is empty (0 bytes)",
        *_AGAIN,
    ),
    "too_large": (
        "파일이 너무 큽니다: {detail} (한도 {size} MiB)",
        "the file is too large: {detail} (limit {size} MiB)",
        "GAMYEON_RAG_MAX_FILE_MIB로 한도를 올리세요",
        "raise the limit: GAMYEON_RAG_MAX_FILE_MIB",
    ),
    "old_office": (
        "옛 형식(doc, hwp)이거나 암호가 걸린 오피스 문서입니다",
        "an old office format (doc, hwp) or an encrypted office file",
        "docx, hwpx 또는 PDF로 저장하세요",
        "save it as docx, hwpx or PDF",
    ),
    "wrong_type": (
        "내용이 확장자와 다릅니다 (내용: {detail})",
        "the content is not what the name says (content: {detail})",
        "확장자를 바로잡으세요",
        "correct the file's extension",
    ),
    "not_text": (
        "글자로 읽을 수 없습니다 (UTF-8도 CP949도 아닙니다)",
        "not readable as text (neither UTF-8 nor CP949)",
        "UTF-8로 저장하세요",
        "save it as UTF-8",
    ),
    "encrypted": (
        "암호가 걸려 있습니다",
        "the file is encrypted",
        "암호를 풀어 저장한 뒤 다시 넣으세요",
        "remove the password and ingest again",
    ),
    "damaged": (
        "파일이 깨졌거나 잘렸습니다: {detail}",
        "the file is damaged or cut off: {detail}",
        *_AGAIN,
    ),
    "too_many_pages": (
        "쪽이 너무 많습니다: {detail}쪽 (한도 {pages})",
        "too many pages: {detail} (limit {pages})",
        "나누거나 GAMYEON_RAG_MAX_PAGES로 한도를 올리세요",
        "split it, or raise GAMYEON_RAG_MAX_PAGES",
    ),
    "bomb": (
        "풀면 지나치게 커지는 파일입니다 (압축 폭탄): {detail}",
        "unpacks to far too much (a decompression bomb): {detail}",
        "믿을 수 있는 파일인지 확인하세요",
        "check that the file can be trusted",
    ),
    "memory": (
        "읽는 데 메모리를 {memory} MiB 넘게 씁니다",
        "needs more than {memory} MiB of memory to read",
        "믿을 수 있는 파일이면 GAMYEON_RAG_PARSE_MEMORY_MIB를 올리세요",
        "if you trust it, raise GAMYEON_RAG_PARSE_MEMORY_MIB",
    ),
    "timeout": (
        "읽는 데 {seconds}초가 넘게 걸립니다",
        "takes longer than {seconds} s to read",
        "나누거나 GAMYEON_RAG_PARSE_SECONDS를 올리세요",
        "split it, or raise GAMYEON_RAG_PARSE_SECONDS",
    ),
    "crashed": (
        "읽는 중에 판독기가 죽었습니다 (깨졌거나 메모리 {memory} MiB를 넘음)",
        "the reader died on it (damaged, or more than {memory} MiB of memory)",
        "다른 프로그램으로 다시 저장하세요",
        "save it again with another program",
    ),
    "no_text": (
        "글자가 있는 쪽이 없습니다 (스캔한 문서)",
        "no page has text (a scan)",
        "rag ingest --ocr (tesseract-ocr-kor 필요)",
        "rag ingest --ocr (needs tesseract-ocr-kor)",
    ),
    "empty_text": (
        "글자가 없습니다",
        "it holds no text",
        "원본을 확인하세요",
        "check the original",
    ),
    "missing": (
        "그런 파일이 없습니다",
        "no such file",
        "경로를 확인하세요",
        "check the path",
    ),
    "no_tesseract": (
        "Tesseract가 없어 스캔을 읽을 수 없습니다",
        "Tesseract is not installed, so scans cannot be read",
        "apt-get install tesseract-ocr-kor",
        "apt-get install tesseract-ocr-kor",
    ),
    "ocr_failed": (
        "글자 인식이 실패했습니다: {detail}",
        "character recognition failed: {detail}",
        "tesseract --list-langs에 kor가 있는지 확인하세요",
        "check that tesseract --list-langs shows kor",
    ),
    "outside": (
        "폴더 밖을 가리키는 링크라서 건너뜁니다",
        "skipped: a link that leads out of the folder",
        "그 파일을 직접 지정하세요: rag ingest {detail}",
        "name it yourself: rag ingest {detail}",
    ),
}
