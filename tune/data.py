"""Training data of a persona, in any format, checked before anything is trained.

The persona's system prompt is not in the data: it is put in front by `Record.conversation`, exactly as the gateway does
when it serves. Without a persona (`tune sft`) a record may bring its own.
"""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from personas.lang import say
from personas.loader import PersonaFolder
from tune.data_tools.llama_factory import INFO_FILE
from tune.data_tools.reader import Fault, Source
from tune.formats.base import DataError, Message, Turn
from tune.formats.record import Record

__all__ = ["DataError", "Message", "Record", "Turn", "data_hash", "read_records"]


def _tell(note: str) -> None:
    print(f"· {note}", file=sys.stderr)


def read_held_out(folder: PersonaFolder) -> list[Record]:
    """A persona's held-out set; empty where it has none. Raises as `read_records` does."""
    return read_records([folder.eval_file]) if folder.eval_file.is_file() else []


def read_records(files: list[Path], note: Callable[[str], None] = _tell, *, own_system: bool = False) -> list[Record]:
    """Every record of the files, in order, in NFC; a `dataset_info.json` among them speaks for the others.

    Args:
        files: in any format that `tune data formats` lists.
        note: told of what a reader should know, such as an encoding.
        own_system: whether a record may have a system prompt of its own.

    Raises:
        DataError: every bad record at once, as `file:line: field: reason`; or no record at all.
    """
    records: list[Record] = []
    faults: list[str] = []
    source = Source([file for file in files if file.name == INFO_FILE] or files)
    for made in source.read():
        if isinstance(made, Fault):
            faults.append(str(made))
        elif made.system and not own_system:
            reason = say("system: 시스템 프롬프트는 persona.yaml에 적습니다", "system: belongs in persona.yaml")
            faults.append(str(Fault(*source.place, reason)))
        else:
            turns = [Turn.model_validate(turn) for turn in made.messages()]
            records.append(Record.model_construct(category=made.category, messages=turns, system=made.system))
    for text in source.notes:
        note(text)
    if faults:
        there = all(file.exists() for file in files)
        mend = say("이 줄들을 고치세요", "mend these lines") if there else say("경로를 확인하세요", "check the path")
        raise DataError("\n".join(faults), mend)
    if not records:
        named = ", ".join(map(str, files)) or "data/"
        raise DataError(say(f"학습 데이터가 비어 있습니다: {named}", f"no training data: {named}"))
    return records


def data_hash(records: list[Record]) -> str:
    """Hex sha256 of the records' content, whatever files they came from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()
