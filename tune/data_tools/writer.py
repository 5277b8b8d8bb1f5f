"""Writes rows as JSON Lines, JSON, CSV, TSV or Parquet, by the name's ending; the file appears whole or not at all."""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil

from personas.files import sync
from personas.lang import say
from personas.loader import DATA_SUFFIXES
from tune.data_tools.targets import Column, Target
from tune.formats.base import DataError

Put = Callable[[dict[str, Any]], None]
_BATCH = 2048  # rows of a Parquet row group in memory


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Refuse to write where something is already, or a kind of file that is not known.

    Raises:
        DataError: with the option that allows it.
    """
    if out.suffix.lower() not in DATA_SUFFIXES:
        raise DataError(
            f"{out}: " + say("모르는 종류의 파일입니다", "a file of no known kind"), " ".join(DATA_SUFFIXES)
        )
    if out.is_dir() or (out.exists() and not overwrite):
        raise DataError(say(f"{out}이(가) 이미 있습니다", f"{out} exists"), "--overwrite")


@contextmanager
def whole_file(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to; it becomes `out` when the block ends well, and is removed when not.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        try:
            yield part
            sync(part)
            part.replace(out)
            sync(out.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{out}: {error.strerror or error}",
            say(
                "아무것도 바뀌지 않았습니다. 자리를 비우고 다시 실행하세요",
                "nothing was changed; make room and run again",
            ),
        ) from error


def _sweep(out: Path) -> None:
    """Remove what killed processes left."""
    for left in out.parent.glob(f".{out.name}.*.part"):
        owner = re.fullmatch(r".+\.([0-9]+)\.part", left.name)
        if owner and not psutil.pid_exists(int(owner[1])):
            left.unlink(missing_ok=True)


@contextmanager
def writing(out: Path, target: Target) -> Iterator[Put]:
    """A function that writes one row, for the length of the block; `out` appears when it ends well."""
    kinds = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet}
    with whole_file(out) as part, ExitStack() as stack:
        yield stack.enter_context(kinds.get(out.suffix.lower(), _jsonl)(part, out.suffix.lower(), target.columns))


@contextmanager
def _jsonl(part: Path, suffix: str, columns: dict[str, Column]) -> Iterator[Put]:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    with part.open("w", encoding="utf-8", newline="\n") as file:
        yield lambda row: (file.write(encode(row) + "\n"), None)[1]


@contextmanager
def _json(part: Path, suffix: str, columns: dict[str, Column]) -> Iterator[Put]:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    before = "[\n"
    with part.open("w", encoding="utf-8", newline="\n") as file:

        def put(row: dict[str, Any]) -> None:
            nonlocal before
            file.write(before + encode(row))
            before = ",\n"

        yield put
        file.write("\n]\n" if before == ",\n" else "[]\n")


@contextmanager
def _csv(part: Path, suffix: str, columns: dict[str, Column]) -> Iterator[Put]:
    encode = json.JSONEncoder(ensure_ascii=False).encode
    # The byte order mark is for spreadsheets, which take UTF-8 for CP949 without it.
    with part.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(columns), restval="", delimiter="\t" if suffix == ".tsv" else ",")
        writer.writeheader()

        def put(row: dict[str, Any]) -> None:
            writer.writerow({k: v if isinstance(v, str) else encode(v) if v else "" for k, v in row.items()})

        yield put


@contextmanager
def _parquet(part: Path, suffix: str, columns: dict[str, Column]) -> Iterator[Put]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    text = pa.string()
    types = {
        "text": text,
        "messages": pa.list_(pa.struct({"role": text, "content": text})),
        "said": pa.list_(pa.struct({"from": text, "value": text})),
        "pairs": pa.list_(pa.list_(text)),
    }
    schema = pa.schema([(name, types[kind]) for name, kind in columns.items()])
    held: list[dict[str, Any]] = []
    with pq.ParquetWriter(part, schema) as writer:

        def flush() -> None:
            if held:
                writer.write_table(pa.Table.from_pylist(held, schema))
                held.clear()

        def put(row: dict[str, Any]) -> None:
            held.append(row)
            if len(held) >= _BATCH:
                flush()

        yield put
        flush()
