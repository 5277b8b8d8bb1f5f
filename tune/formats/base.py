"""What every format shares: checked text, the example that all formats become, and the register.

A format is one module of this package: a pydantic model of the record's shape with a method `examples`, and one call
of `register`. Nothing else has to be told of it.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

from personas.errors import GamyeonError
from personas.lang import say
from personas.texts import clean

Message = dict[str, str]
Count = Callable[[str], int]
OPEN_QA = "open_qa"


class DataError(GamyeonError):
    """Training data is missing or faulty."""


class FieldError(ValueError):
    """A record cannot be used: the field (`messages.1.content`; may be empty) and the reason."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}" if field else reason)

    @classmethod
    def of(cls, error: ValidationError, prefix: str = "") -> "FieldError":
        """The first fault that pydantic found, at the deepest place where a field may have several shapes."""
        errors = error.errors(include_url=False)
        same = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
        worst = max(same, key=lambda one: len(one["loc"]))
        places = [str(part) for part in worst["loc"] if isinstance(part, int) or _FIELD.fullmatch(part)]
        reason = _REASONS.get(worst["type"])
        return cls(".".join([prefix, *places] if prefix else places), say(*reason) if reason else worst["msg"])


# Names of fields, not of a union's branches (`list[ChatMessage]`, `constrained-str`).
_FIELD = re.compile(r"[a-z][a-z_]*")
_REASONS = {
    "missing": ("필드가 없습니다", "field is missing"),
    "string_type": ("문자열이 아닙니다", "not a string"),
    "string_too_short": ("비어 있습니다", "empty"),
    "list_type": ("목록이 아닙니다", "not a list"),
    "too_short": ("비어 있습니다", "empty"),
    "model_type": ("JSON 객체가 아닙니다", "not a JSON object"),
    "string_unicode": ("잘못된 유니코드입니다 (짝 없는 surrogate)", "bad Unicode (a lone surrogate)"),
    "extra_forbidden": ("모르는 필드입니다", "unknown field"),
}


def _no_nul(text: str) -> str:
    """Refuse what tokenizers and databases cut or refuse."""
    if "\0" in text:
        raise PydanticCustomError("nul", say("NUL 문자(\\u0000)가 있습니다", "contains a NUL character (\\u0000)"))
    return text


Raw = Annotated[str, StringConstraints(min_length=1), AfterValidator(_no_nul)]
Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_no_nul), AfterValidator(clean)
]
MayBeEmpty = Annotated[str, StringConstraints(strip_whitespace=True), AfterValidator(_no_nul), AfterValidator(clean)]


@dataclass(slots=True)
class Example:
    """One conversation, as every format is turned into.

    Attributes:
        turns: user and assistant in turn, the assistant last.
        category: the kind of task.
        context: what the last question is about; a passage, or the input of an Alpaca record.
        system: the system message, or empty.
        rejected: a worse answer than the last turn, or empty.
    """

    turns: list[Message]
    category: str = OPEN_QA
    context: str = ""
    system: str = ""
    rejected: str = ""

    @property
    def instruction(self) -> str:
        """The last thing that the user says."""
        return self.turns[-2]["content"]

    @property
    def response(self) -> str:
        """The last answer."""
        return self.turns[-1]["content"]

    def messages(self) -> list[Message]:
        """The turns, with the context below the last question."""
        if not self.context:
            return self.turns
        asked = {"role": "user", "content": f"{self.instruction}\n\n{self.context}"}
        return [*self.turns[:-2], asked, self.turns[-1]]


def exchange(instruction: str, response: str) -> list[Message]:
    """One question with its answer, as turns."""
    return [{"role": "user", "content": instruction}, {"role": "assistant", "content": response}]


@dataclass(frozen=True)
class Options:
    """What converters may need to know.

    Attributes:
        max_length: tokens that a record may have once it is trained on; long passages are cut to a window.
        count: tokens of a text. Without a tokenizer every character counts as one.
        category: in place of the format's own, if not empty.
    """

    max_length: int = 1024
    count: Count = len
    category: str = ""


class Row(BaseModel):
    """The shape of one record of a format; fields that it does not name are left aside."""

    model_config = ConfigDict(extra="ignore")

    def examples(self, options: Options) -> "Iterator[Example | FieldError]":
        """The conversations of this record, and in place of each that cannot be used, why."""
        raise NotImplementedError


class Turn(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant"]
    content: Text


@dataclass(frozen=True)
class Format:
    """One way in which instruction data is written.

    Attributes:
        name: what `--from` takes.
        title: where it is used, for people.
        row: the record's shape.
        accepts: whether a record looks like this format; a faulty one may.
        example: one record, as the documentation shows it.
        files: narrows it to files of which this is true, and prefers it there.
        aliases: other names that `--from` takes.
    """

    name: str
    title: str
    row: type[Row]
    accepts: Callable[[dict[str, Any]], bool]
    example: dict[str, Any]
    files: Callable[[Path], bool] | None = field(default=None)
    aliases: tuple[str, ...] = ()


FORMATS: dict[str, Format] = {}


def register(format_: Format) -> None:
    """Make a format known."""
    FORMATS[format_.name] = format_


def has(*names: str, without: Sequence[str] = ()) -> Callable[[dict[str, Any]], bool]:
    """Whether a record has all of these fields, and none of the others."""
    wanted, unwanted = set(names), set(without)
    return lambda record: wanted <= record.keys() and not unwanted & record.keys()


def recognise(records: Sequence[Any], path: Path) -> Format | None:
    """The format that most of a file's first records look like, or None."""
    scored = []
    for format_ in FORMATS.values():
        if format_.files is None or format_.files(path):
            hits = sum(isinstance(record, dict) and format_.accepts(record) for record in records)
            scored.append((hits, format_.files is not None, format_))
    best = max(scored, key=lambda item: item[:2], default=None)
    return best[2] if best and best[0] else None


def missing_fields(record: dict[str, Any]) -> str:
    """What a record of no known format lacks for the nearest ones: `output (alpaca) | response (dolly)`, or nothing.

    Near is a format of whose required fields the record has some: first by how few are missing, then by how many of
    the record's fields it knows.
    """
    near = []
    for format_ in FORMATS.values():
        fields = format_.row.model_fields
        needed = [name for name, field_ in fields.items() if field_.is_required()]
        missing = [name for name in needed if name not in record]
        if format_.files is None and 0 < len(missing) < len(needed):
            near.append(((len(missing), -len(fields.keys() & record.keys())), ", ".join(missing), format_.name))
    best = min((one[0] for one in near), default=None)
    return " | ".join(f"{missing} ({name})" for score, missing, name in near if score == best)


def format_named(name: str) -> Format:
    """A format by its name.

    Raises:
        DataError: there is none of that name.
    """
    found = next((one for one in FORMATS.values() if name == one.name or name in one.aliases), None)
    if found is None:
        raise DataError(
            say(f"'{name}' 형식은 없습니다", f"no format '{name}'"), f"--from {' | '.join(sorted(FORMATS))}"
        )
    return found
