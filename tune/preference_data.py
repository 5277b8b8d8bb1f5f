"""Reads preference records from any file that `tune data` reads: pairs for DPO, judged answers for KTO.

System messages are left aside: the persona's own is put in front, as when it is served.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import AliasChoices, Field, ValidationError

from personas.lang import say
from tune.data_tools.json_rows import RowError
from tune.data_tools.reader import Fault, Source
from tune.data_tools.rows import files_of, rows
from tune.formats.base import DataError, Example, FieldError, Options, Row, Text
from tune.formats.messages import ChatMessage
from tune.formats.prompt_completion import joined

if TYPE_CHECKING:
    from tune.preference import Judged, Pair

_R = TypeVar("_R")
Note = Callable[[str], None]


class Judgement(Row):
    """TRL's unpaired form: an answer, and whether it was liked."""

    prompt: Text | list[ChatMessage] = Field(validation_alias=AliasChoices("prompt", "messages"))
    completion: Text | list[ChatMessage]
    label: bool

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        yield joined(self.prompt, self.completion, "completion", options.category)


def read_pairs(files: list[Path], note: Note = print) -> "list[Pair]":
    """Pairs of any format with `rejected` (`tune data formats`): Dolly's, `prompt`, `chosen`, `rejected`, and others.

    Args:
        files: files, folders, or LLaMA-Factory's `dataset_info.json`; one format a file.
        note: told of what a reader should know, such as an encoding.

    Raises:
        DataError: every bad record at once, as `file:line: field: reason`; or no record at all.
    """
    from tune.preference import Pair

    source = Source(files)

    def read() -> "Iterator[Pair | Fault]":
        for made in source.read():
            if isinstance(made, Fault):
                yield made
            elif not made.rejected:
                yield Fault(*source.place, "rejected: " + say("필드가 없습니다", "field is missing"))
            else:
                turns = made.messages()[:-1]
                fields = {"messages": turns, "chosen": made.response, "rejected": made.rejected, "source": "data"}
                yield Pair.model_validate(fields)
        for text in source.notes:
            note(text)

    return _whole(read(), files)


def read_judged(files: list[Path], note: Note = print) -> "list[Judged]":
    """Answers of `{"prompt" | "messages", "completion", "label": true | false}`; arguments and errors as `read_pairs`'.

    Raises:
        DataError: as `read_pairs`.
    """
    from tune.preference import Judged

    def judged(row: object) -> "Judged":
        if isinstance(row, RowError):
            raise FieldError("", str(row))
        one = Judgement.model_validate(row)
        example = next(one.examples(Options()))
        assert isinstance(example, Example)
        turns, answer = example.turns[:-1], example.response
        return Judged.model_validate({"messages": turns, "answer": answer, "good": one.label, "source": "data"})

    def read() -> "Iterator[Judged | Fault]":
        for path in files:
            try:
                for file in files_of(path):
                    for line, row in rows(file, note):
                        try:
                            yield judged(row)
                        except ValidationError as error:
                            yield Fault(file, line, str(FieldError.of(error)))
                        except FieldError as error:
                            yield Fault(file, line, str(error))
            except DataError as error:
                yield Fault(path, 0, error.message.removeprefix(f"{path}: "))

    return _whole(read(), files)


def _whole(read: "Iterator[_R | Fault]", files: list[Path]) -> list[_R]:
    """Everything that was read, if there is something and nothing of it is faulty."""
    made: list[_R] = []
    faults: list[str] = []
    for one in read:
        if isinstance(one, Fault):
            faults.append(str(one))
        else:
            made.append(one)
    if faults or not made:
        named = ", ".join(map(str, files))
        raise DataError(
            "\n".join(faults) or say(f"데이터가 비어 있습니다: {named}", f"no data: {named}"), "tune data check"
        )
    return made
