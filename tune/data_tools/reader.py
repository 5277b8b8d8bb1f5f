"""Examples of any files: the format recognised or named, every record checked, faults given beside the good ones."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import tune.formats  # noqa: F401  registers the formats
from personas.lang import say
from tune.data_tools.json_rows import RowError
from tune.data_tools.llama_factory import INFO_FILE, Dataset, datasets_of
from tune.data_tools.rows import Note, files_of, rows
from tune.formats.base import (
    FORMATS,
    DataError,
    Example,
    FieldError,
    Format,
    Options,
    format_named,
    missing_fields,
    recognise,
)

FIRST = 50  # records that decide the format


@dataclass(frozen=True, slots=True)
class Fault:
    """A record that cannot be used: `file:line: field: reason`."""

    file: Path
    line: int
    reason: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return f"{place}: {self.reason}"


@dataclass
class Source:
    """What to read, and how.

    Attributes:
        paths: files, folders, and LLaMA-Factory's `dataset_info.json`.
        format: by name; recognised for each file if empty.
        options: for the converters.
        notes: filled while reading: what a reader should know.
        formats: filled while reading: examples by format.
        place: while reading: the file and line of the record given last.
    """

    paths: Sequence[Path]
    format: str = ""
    options: Options = field(default_factory=Options)
    notes: list[str] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    place: tuple[Path, int] = (Path(), 0)

    def read(self) -> Iterator[Example | Fault]:
        """Every example in order, and a fault in place of each bad record; may be called again."""
        named = format_named(self.format) if self.format else None
        self.notes.clear()
        self.formats.clear()
        for path in self.paths:
            try:
                parts = _parts(path, self._note)
            except DataError as error:
                yield Fault(path, 0, error.message.removeprefix(f"{path}: "))
                continue
            for part in parts:
                yield from self._file(part, named)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def _file(self, part: Dataset, named: Format | None) -> Iterator[Example | Fault]:
        path, stream = part.file, rows(part.file, self._note)
        try:
            first = list(islice(stream, FIRST))
            mapped = [(line, value if isinstance(value, RowError) else part.renamed(value)) for line, value in first]
            format_ = named or recognise([value for _, value in mapped if isinstance(value, dict)], path)
            rest = ((line, v if isinstance(v, RowError) else part.renamed(v)) for line, v in stream)
            for line, value in chain(mapped, rest):
                self.place = path, line
                for made in _examples(value, format_, self.options):
                    if isinstance(made, Example):
                        self.formats[format_.name if format_ else ""] += 1
                        yield made
                    else:
                        yield Fault(path, line, str(made))
        except DataError as error:
            yield Fault(path, 0, error.message.removeprefix(f"{path}: "))

    def good(self, faults: "Faults") -> Iterator[Example]:
        """Every good example; faults go to `faults`."""
        for made in self.read():
            if isinstance(made, Fault):
                faults.add(made)
            else:
                yield made


@dataclass
class Faults:
    """Faults, counted; the first ones kept."""

    keep: int = 20
    first: list[Fault] = field(default_factory=list)
    count: int = 0

    def add(self, fault: Fault) -> None:
        self.count += 1
        if len(self.first) < self.keep:
            self.first.append(fault)

    def raise_any(self, hint: str) -> None:
        """Refuse to go on if there was a fault.

        Raises:
            DataError: the first faults, a line each, and how many more.
        """
        if self.count:
            more = self.count - len(self.first)
            tail = [say(f"그 밖에 {more}개", f"and {more} more")] if more else []
            raise DataError("\n".join([*map(str, self.first), *tail]), hint)


def _parts(path: Path, note: Note) -> list[Dataset]:
    if path.name == INFO_FILE or (path.is_dir() and (path / INFO_FILE).is_file()):
        return datasets_of(path if path.is_file() else path / INFO_FILE, note)
    return [Dataset(file) for file in files_of(path)]


def _examples(value: Any, format_: Format | None, options: Options) -> Iterator[Example | RowError | FieldError]:
    if isinstance(value, RowError):
        yield value
    elif not isinstance(value, dict):
        yield FieldError("", say("JSON 객체가 아닙니다", "not a JSON object"))
    elif format_ is None:
        yield _unknown(value)
    else:
        try:
            yield from format_.row.model_validate(value).examples(options)
        except ValidationError as error:
            yield FieldError.of(error)
        except FieldError as error:
            yield error


def _unknown(record: dict[str, Any]) -> FieldError:
    if missing := missing_fields(record):
        add = say("필드가 없습니다. 넣거나 `tune data formats`", "field is missing; add it, or see `tune data formats`")
        return FieldError(missing, add)
    keys = ", ".join(map(str, list(record)[:8]))
    return FieldError("", say(f"형식을 알 수 없습니다 (필드: {keys})", f"no format is known for the fields {keys}"))


def format_names() -> list[str]:
    """What `--from` takes."""
    return sorted(FORMATS)
