"""Which encoding a text file is in: UTF-8, UTF-16 by its byte order mark, or CP949 (with a note)."""

import codecs
import re
from pathlib import Path

from personas.lang import say
from tune.formats.base import DataError

BLOCK = 1 << 20  # bytes
_HANGUL = re.compile("[가-힣]")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def encoding_of(path: Path) -> str:
    """`utf-8-sig`, `utf-16` or `cp949`; reads the file once, a block at a time.

    A file with Korean in valid UTF-8 before the first bad byte is UTF-8 with bad lines, not CP949.

    Raises:
        DataError: the file is empty, cannot be read or holds NUL bytes.
    """
    with path.open("rb") as file:
        if file.read(2) in _UTF16_MARKS:
            return "utf-16"
    decoder = codecs.getincrementaldecoder("utf-8")()
    korean = False
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            try:
                text = decoder.decode(block)
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode("utf-8")
                if korean or _HANGUL.search(before) or not _is_cp949(path):
                    return "utf-8-sig"  # the reader names the place
                return "cp949"
            korean = korean or bool(_HANGUL.search(text))
    return "utf-8-sig"


def _is_cp949(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("cp949")()
    with path.open("rb") as file:
        try:
            while block := file.read(BLOCK):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def refuse_empty(path: Path) -> None:
    """Refuse a file without content, or one that is not text.

    Raises:
        DataError: what is wrong with it.
    """
    with path.open("rb") as file:
        head = file.read(BLOCK)
        if head[:2] not in _UTF16_MARKS and head.count(b"\0") * 2 > len(head):
            raise DataError(f"{path}: " + say("텍스트 파일이 아닙니다 (NUL 바이트)", "not a text file (NUL bytes)"))
        while head and not head.strip(b" \t\r\n\xef\xbb\xbf"):
            head = file.read(BLOCK)
    if not head:
        raise DataError(f"{path}: " + say("빈 파일입니다", "the file is empty"))
