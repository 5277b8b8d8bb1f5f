"""Records of JSON files with constant memory, each with the line that it begins in.

A list, or an object with the list in `data` (SQuAD's nesting), is walked with the standard library's scanner over a
sliding buffer: twice the speed of ijson, and it knows the lines. JSON Lines are read a line at a time.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from personas.lang import say

BLOCK = 1 << 20  # characters
MAX_RECORD = (
    64 << 20
)  # characters, or bytes of a line; beyond this a quote or bracket is missing, or it is not instruction data
_BLANK = re.compile(r"[ \t\r\n]*")


class RowError(ValueError):
    """A row that cannot be read."""


Row = tuple[int, Any]  # line or row number (1-based), and the value or a RowError


def reason_of(error: Exception, line: int = 0) -> str:
    """What is wrong with a piece of JSON, for people; `line` is that of the fault, where the record has several."""
    if isinstance(error, UnicodeDecodeError):
        return say("UTF-8이 아닙니다", "not UTF-8") + f" (byte {error.start})"
    if isinstance(error, json.JSONDecodeError):
        place = f"line {line}" if line else f"column {error.colno}"
        if error.doc[error.pos : error.pos + 1] == "\0" or "\0" in error.doc[error.pos - 1 : error.pos + 1]:
            return say("NUL 바이트가 있습니다", "contains a NUL byte") + f" ({place})"
        if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string"):
            return say("JSON이 중간에 잘렸습니다", "truncated JSON") + f" ({error.msg}, {place})"
        return say("JSON이 아닙니다", "not JSON") + f" ({error.msg}, {place})"
    if isinstance(error, RecursionError):
        return say("너무 깊게 중첩되었습니다", "nested too deeply")
    return str(error)


def line_rows(path: Path, encoding: str) -> Iterator[Row]:
    """Every line of a JSON Lines file. Only `\\n` ends a line: U+2028 and its like may stand inside a string."""
    if encoding == "utf-16":
        with path.open(encoding=encoding, newline="\n") as file:
            yield from _parsed(enumerate(iter(lambda: file.readline(MAX_RECORD + 1), ""), 1), str)
        return
    with path.open("rb") as raw:
        lines = iter(lambda: raw.readline(MAX_RECORD + 1), b"")
        yield from _parsed(enumerate(lines, 1), lambda line: line.decode(encoding))


def _parsed(lines: Iterator[tuple[int, Any]], decode: Callable[[Any], str]) -> Iterator[Row]:
    for number, line in lines:
        if not line.strip():
            continue
        if len(line) > MAX_RECORD:
            yield number, RowError(_too_long())
            return
        try:
            text = decode(line)
            if text.strip("\ufeff \t\r\n"):
                yield number, json.loads(text.removeprefix("\ufeff"))
        except (ValueError, RecursionError) as error:
            yield number, RowError(reason_of(error))


def _too_long() -> str:
    limit = MAX_RECORD >> 20
    return say(
        f"기록 하나가 {limit} MB를 넘습니다 (따옴표나 괄호가 빠졌나요?)",
        f"one record is over {limit} MB (a quote or bracket missing?)",
    )


class _Scanner:
    """A JSON text seen through a buffer that slides over the file; `line` is that of the place it stands at."""

    def __init__(self, read: Callable[[int], str]) -> None:
        self._read, self._decode = read, json.JSONDecoder().raw_decode
        self._text, self._at, self._ended = "", 0, False
        self.line = 1

    def _grow(self) -> None:
        # At least doubled, so that a long record is scanned few times.
        block = self._read(max(BLOCK, len(self._text) - self._at))
        self._ended = not block
        self._text, self._at = self._text[self._at :] + block, 0

    def _move(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def peek(self) -> str:
        """The next character that is no blank; empty at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._move(blank.end() if blank else self._at)
            if self._at < len(self._text) or self._ended:
                return self._text[self._at : self._at + 1]
            self._grow()

    def skip(self, wanted: str) -> str:
        """Step over one of these characters.

        Raises:
            RowError: something else stands there, or the file ends.
        """
        found = self.peek()
        if not found:
            raise RowError(say("JSON이 중간에 잘렸습니다", "truncated JSON"))
        if found not in wanted:
            where = f"'{' '.join(wanted)}', not {found!r}"
            raise RowError(say("JSON이 아닙니다", "not JSON") + f" (expected {where})")
        self._move(self._at + 1)
        return found

    def value(self) -> Any:
        """The value that begins here.

        Raises:
            RowError: it is not JSON, is cut off or is too long.
        """
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut_off = error.pos >= len(self._text) - 16 or error.msg.startswith("Unterminated string")
                if self._ended or not cut_off:
                    line = self.line + self._text.count("\n", self._at, error.pos)
                    raise RowError(reason_of(error, line)) from None
            except (ValueError, RecursionError) as error:
                raise RowError(reason_of(error)) from None
            else:
                if end < len(self._text) or self._ended:  # a number may go on in the next block
                    self._move(end)
                    return value
            if len(self._text) - self._at > MAX_RECORD:
                raise RowError(_too_long())
            self._grow()


def document_rows(path: Path, encoding: str) -> Iterator[Row]:
    """Every record of a JSON document: the elements of its list, or of the list in its `data`, or the one object."""
    with path.open(encoding=encoding, newline="") as file:
        scanner = _Scanner(file.read)
        try:
            if scanner.peek() == "{":
                yield from _object(scanner)
            else:
                yield from _elements(scanner)
            if scanner.peek():
                raise RowError(say("JSON 뒤에 다른 내용이 있습니다", "something follows the JSON document"))
        except (RowError, UnicodeDecodeError) as error:
            yield scanner.line, error if isinstance(error, RowError) else RowError(reason_of(error))


def _elements(scanner: _Scanner) -> Iterator[Row]:
    scanner.skip("[")
    if scanner.peek() == "]":
        scanner.skip("]")
        return
    while True:
        scanner.peek()
        line = scanner.line
        yield line, scanner.value()
        if scanner.skip(",]") == "]":
            return


def _object(scanner: _Scanner) -> Iterator[Row]:
    line, fields = scanner.line, {}
    listed = False
    scanner.skip("{")
    while scanner.peek() != "}":
        key = scanner.value()
        scanner.skip(":")
        if key == "data" and scanner.peek() == "[":
            yield from _elements(scanner)
            listed = True
        else:
            fields[key] = scanner.value()
        if scanner.peek() != "}":
            scanner.skip(",")
    scanner.skip("}")
    if not listed:
        yield line, fields
