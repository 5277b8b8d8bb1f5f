"""LLaMA-Factory's `dataset_info.json`: which files a data folder has, and what their fields are called.

Source of the fields and their defaults: LLaMA-Factory, data/README.md. Each record's fields are renamed to those of
the plain formats (Alpaca, ShareGPT, preferences), so that no format has to know of this.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from personas.lang import say
from tune.data_tools.rows import Note
from tune.formats.base import DataError, FieldError

INFO_FILE = "dataset_info.json"
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}


class Tags(BaseModel):
    """What messages call their fields and their speakers."""

    role_tag: str = "from"
    content_tag: str = "value"
    user_tag: str = "human"
    assistant_tag: str = "gpt"
    system_tag: str = "system"


class Entry(BaseModel):
    """One dataset of the file."""

    file_name: str = ""
    formatting: Literal["alpaca", "sharegpt", "openai"] = "alpaca"
    ranking: bool = False
    columns: dict[str, str | None] = {}
    tags: Tags = Tags()


@dataclass(frozen=True)
class Dataset:
    """A file, and the entry that describes it if there is one."""

    file: Path
    entry: Entry | None = field(default=None)

    def renamed(self, value: Any) -> Any:
        """The record with the fields of a plain format."""
        if self.entry is None or not isinstance(value, dict):
            return value
        return _alpaca(value, self.entry) if self.entry.formatting == "alpaca" else _sharegpt(value, self.entry)


def datasets_of(info: Path, note: Note) -> list[Dataset]:
    """The datasets whose files are in the folder of a `dataset_info.json`; those elsewhere are noted.

    Raises:
        DataError: it cannot be read, an entry is faulty, or a file that it names is not there.
    """
    try:
        content = json.loads(info.read_text(encoding="utf-8-sig"))
        entries = {name: Entry.model_validate(value) for name, value in dict(content).items()}
    except OSError as error:
        raise DataError(f"{info}: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(f"{info}: {FieldError.of(error)}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{info}: {error}") from error
    found = []
    for name, entry in entries.items():
        if not entry.file_name:
            note(f"{info}: {name}: " + say("파일이 이 폴더에 없어 건너뜁니다", "not a file of this folder, left out"))
            continue
        file = info.parent / entry.file_name
        if not file.exists():
            raise DataError(f"{info}: {name}: " + say(f"{file}이(가) 없습니다", f"no such file {file}"))
        files = sorted(file.iterdir()) if file.is_dir() else [file]
        found += [Dataset(one, entry) for one in files]
    if not found:
        raise DataError(f"{info}: " + say("읽을 데이터가 없습니다", "names no data of this folder"))
    return found


def _taken(value: Mapping[str, Any], entry: Entry, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields of `names` (their role → the plain format's name), wherever the columns say they are."""
    taken = {}
    for role, plain in names.items():
        column = entry.columns.get(role, plain if not entry.columns else None)
        if column and value.get(column) is not None:
            taken[plain] = value[column]
    return taken


def _alpaca(value: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    names = {**_ALPACA, "system": "system", "history": "history"}
    if entry.ranking:
        names |= {"chosen": "chosen", "rejected": "rejected"}
        names.pop("response")
    return _taken(value, entry, names)


def _sharegpt(value: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    names = {"messages": "conversations", "system": "system"}
    if entry.ranking:
        names |= {"chosen": "chosen", "rejected": "rejected"}
    taken = _taken(value, entry, names)
    tags = entry.tags
    speakers = {tags.user_tag: "user", tags.assistant_tag: "assistant", tags.system_tag: "system"}

    def message(one: Any) -> Any:
        if not isinstance(one, dict):
            return one
        role = str(one.get(tags.role_tag))
        return {"role": speakers.get(role, role), "content": one.get(tags.content_tag)}

    for name in ("conversations", "chosen", "rejected"):
        if isinstance(taken.get(name), list):
            taken[name] = [message(one) for one in taken[name]]
        elif isinstance(taken.get(name), dict):
            taken[name] = message(taken[name])
    if entry.ranking:
        taken["prompt"] = taken.pop("conversations", None)
    return taken
