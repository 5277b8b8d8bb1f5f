"""The rows of any file (JSON, JSON Lines, CSV, TSV, Parquet), one at a time, with the line or row of each."""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from personas.lang import say
from personas.loader import DATA_SUFFIXES
from tune.data_tools.encoding import encoding_of, refuse_empty
from tune.data_tools.json_rows import Row, RowError, document_rows, line_rows
from tune.formats.base import DataError

_HEAD = 1 << 16  # characters that tell a document from JSON Lines
_SQUAD = re.compile(r'\{\s*(?:"[^"]*"\s*:\s*(?:"[^"]*"|[\w.]+)\s*,\s*)*"data"\s*:')
Note = Callable[[str], None]


def rows(path: Path, note: Note) -> Iterator[Row]:
    """Every row of a file, as read; a row that cannot be read is a `RowError` in its place.

    Args:
        path: the file; what it holds decides, not its name, between JSON and JSON Lines.
        note: told of what a reader should know, such as an encoding.

    Raises:
        DataError: the file is not there, empty, or of no known kind.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet_rows(path)
            return
        if path.suffix.lower() not in DATA_SUFFIXES:
            raise DataError(
                f"{path}: " + say("모르는 종류의 파일입니다", "a file of no known kind"), " ".join(DATA_SUFFIXES)
            )
        refuse_empty(path)
        encoding = encoding_of(path)
        if encoding != "utf-8-sig":
            shown = encoding.upper()
            note(f"{path}: " + say(f"{shown}(으)로 읽었습니다", f"read as {shown}"))
        if path.suffix.lower() in (".csv", ".tsv"):
            yield from _csv_rows(path, encoding)
        elif _is_document(path, encoding):
            yield from document_rows(path, encoding)
        else:
            yield from line_rows(path, encoding)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error


def _is_document(path: Path, encoding: str) -> bool:
    """Whether the file is one JSON document; else it is JSON Lines. The name decides only what the content does not."""
    with path.open(encoding=encoding, errors="replace", newline="") as file:
        head = file.read(_HEAD).lstrip()
    if head.startswith("["):
        return True
    if path.suffix.lower() != ".json" or not head.startswith("{"):
        return False
    first, line_end, rest = head.partition("\n")
    if not line_end and len(head) > _HEAD // 2:
        return bool(_SQUAD.match(head))  # a line too long to be looked through
    try:
        json.loads(first)
    except ValueError:
        return True
    return not rest.strip()


def _csv_rows(path: Path, encoding: str) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    line = 1
    with path.open(encoding=encoding, newline="") as file:
        try:
            reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            line = reader.line_num + 1 if reader.fieldnames else 1  # asking for the names reads the header
            for row in reader:
                if None in row or None in row.values():
                    yield line, RowError(say("열의 수가 머리줄과 다릅니다", "more or fewer columns than the header"))
                else:
                    yield line, {name: _cell(cell) for name, cell in row.items()}
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as error:
            yield line, RowError(say("CSV가 아닙니다", "not CSV") + f" ({error})")


def _cell(cell: str) -> Any:
    """Lists and objects are written into a cell as JSON."""
    if cell[:2] in ("[{", "[[", '{"'):
        try:
            return json.loads(cell)
        except ValueError:
            return cell
    return cell


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield number, {name: value for name, value in row.items() if value is not None}
    except pa.ArrowInvalid as error:
        raise DataError(f"{path}: " + say("Parquet이 아닙니다", "not Parquet") + f" ({error})") from error


def files_of(source: Path) -> list[Path]:
    """The data files of a folder in name order, or the one file.

    Raises:
        DataError: not there, or a folder without data.
    """
    if not source.is_dir():
        if not source.exists():
            raise DataError(f"{source}: " + say("파일이 없습니다", "no such file"))
        return [source]
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in DATA_SUFFIXES and p.is_file())
    if not found:
        raise DataError(
            f"{source}: " + say("데이터 파일이 없는 폴더입니다", "no data files here"), " ".join(DATA_SUFFIXES)
        )
    return found
