"""Training data of a persona: JSON Lines of conversations, checked before anything is trained.

One record a line: `{"category": str, "messages": [{"role": "user"|"assistant", "content": str}, …]}`. The persona's
system prompt is not in the data: it is put in front here, exactly as the gateway does when it serves.
"""

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator

from personas.errors import GamyeonError
from personas.lang import say

Message = dict[str, str]


class DataError(GamyeonError):
    """Training data is missing or faulty."""


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


class Turn(BaseModel):
    """One message of a record."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Annotated[str, StringConstraints(min_length=1, strip_whitespace=True), AfterValidator(_nfc)]


class Record(BaseModel):
    """One conversation: user and assistant in turn, the assistant last."""

    model_config = ConfigDict(extra="forbid")

    category: str
    messages: list[Turn]

    @model_validator(mode="after")
    def _in_turn(self) -> "Record":
        roles = [turn.role for turn in self.messages]
        if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
            raise ValueError(f"roles must alternate user, assistant and end with assistant, not {roles}")
        return self

    @property
    def prompt(self) -> str:
        """The first thing that the user says."""
        return self.messages[0].content

    def conversation(self, system_prompt: str) -> list[Message]:
        """The messages with the system prompt in front."""
        return [{"role": "system", "content": system_prompt}, *(turn.model_dump() for turn in self.messages)]


def _reason(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return say("UTF-8이 아닙니다", "not UTF-8") + f" (byte {error.start})"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        return f"{field}: {first['msg']}" if field else first["msg"]
    return str(error)


def read_records(files: list[Path]) -> list[Record]:
    """Every record of the files, in order, in NFC.

    Raises:
        DataError: every bad record at once, as `file:line: field: reason`; or no record at all.
    """
    records: list[Record] = []
    faults: list[str] = []
    for file in files:
        try:
            lines = file.read_bytes().split(b"\n")
        except OSError as error:
            faults.append(f"{file}: {error.strerror}")
            continue
        for number, line in enumerate(lines, 1):
            try:
                if line.strip():
                    records.append(Record.model_validate(json.loads(line.decode("utf-8"))))
            except ValueError as error:
                faults.append(f"{file}:{number}: {_reason(error)}")
    if faults:
        raise DataError("\n".join(faults), say("이 줄들을 고치세요", "mend these lines"))
    if not records:
        named = ", ".join(map(str, files)) or "data/*.jsonl"
        raise DataError(say(f"학습 데이터가 비어 있습니다: {named}", f"no training data: {named}"))
    return records


def data_hash(records: list[Record]) -> str:
    """Hex sha256 of the records' content, whatever files they came from."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(record.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


def prompt_overlap(a: str, b: str) -> float:
    """Similarity of two prompts: Jaccard index of their character 3-grams, blanks left out, 0 to 1."""
    grams = []
    for text in (a, b):
        squeezed = "".join(unicodedata.normalize("NFC", text).lower().split())
        grams.append({squeezed[i : i + 3] for i in range(max(1, len(squeezed) - 2))})
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])
