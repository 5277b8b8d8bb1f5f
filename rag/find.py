"""Which files a command means: files, folders and patterns, without links that lead out of a folder."""

import fnmatch
import glob
import hashlib
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from rag.errors import FileError
from rag.load import SUFFIXES
from rag.refusals import file_error
from rag.settings import RagSettings


@dataclass(frozen=True, slots=True)
class Found:
    """A file to ingest: its real absolute path, and the name that people see (NFC, relative to what was asked for)."""

    path: Path
    name: str


@dataclass(slots=True)
class Wanted:
    """What the arguments of a command stand for.

    Attributes:
        covers: patterns of the absolute paths that the arguments speak for; a stored document that fits one and whose
            file is not found is gone.
    """

    files: list[Found]
    refused: list[FileError]
    covers: list[str]


def find(arguments: list[str], settings: RagSettings) -> Wanted:
    """Files by argument: a file, a folder with everything below it, or a pattern such as `docs/**/*.pdf`."""
    wanted = Wanted([], [], [])
    for argument in arguments:
        path = Path(argument).expanduser()
        if path.is_dir():
            _folder(path.resolve(), wanted, settings)
        elif path.exists() or not glob.has_magic(argument):
            wanted.covers.append(glob.escape(str(path.resolve())))
            if path.exists():
                wanted.files.append(Found(path.resolve(), nfc(path.name)))
        else:
            wanted.covers.append(str(Path(path).absolute()))
            for match in sorted(glob.glob(str(path), recursive=True)):  # noqa: PTH207 - pathlib refuses absolute patterns
                if Path(match).is_file() and Path(match).suffix.lower() in SUFFIXES:
                    wanted.files.append(Found(Path(match).resolve(), nfc(Path(match).name)))
    unique = {found.path: found for found in wanted.files}
    wanted.files = list(unique.values())
    return wanted


def _folder(root: Path, wanted: Wanted, settings: RagSettings) -> None:
    wanted.covers.append(glob.escape(str(root)) + "/*")
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in SUFFIXES or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        real = path.resolve()
        if not real.is_relative_to(root):
            wanted.refused.append(file_error("outside", path, str(real), settings))
        elif real.is_file():
            wanted.files.append(Found(real, nfc(str(real.relative_to(root)))))


def nfc(text: str) -> str:
    """Text as Korean is written on most systems: macOS spells file names decomposed."""
    return unicodedata.normalize("NFC", text)


def is_covered(source: str, covers: list[str]) -> bool:
    """Whether the arguments of a command speak for a stored document."""
    return any(fnmatch.fnmatchcase(source, pattern) for pattern in covers)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
