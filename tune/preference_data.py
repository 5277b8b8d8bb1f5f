"""Reads preference records from JSON Lines: pairs for DPO, judged answers for KTO."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from personas.lang import say
from tune.data import DataError

if TYPE_CHECKING:
    from tune.preference import Judged, Pair

_R = TypeVar("_R")


def _last(said: Any) -> str:
    """The text of an answer: a string, or a list whose last message it is."""
    return str(said[-1]["content"]) if isinstance(said, list) else str(said)


def _turns(row: dict[str, Any]) -> list[dict[str, str]]:
    """The conversation of a row in any of the forms below, without system messages."""
    if "instruction" in row:
        context = str(row.get("context") or "").strip()
        asked = f"{context}\n\n{row['instruction']}" if context else str(row["instruction"])
        return [{"role": "user", "content": asked}]
    said = row.get("prompt", row.get("messages"))
    if isinstance(said, str):
        return [{"role": "user", "content": said}]
    if isinstance(said, list):
        return [turn for turn in said if turn.get("role") != "system"]
    raise KeyError("prompt")


def read_pairs(files: list[Path]) -> "list[Pair]":
    """Pairs of `{"prompt" | "messages", "chosen", "rejected"}`, or of Dolly's form with `rejected` (SPEC section 1).

    Raises:
        DataError: every bad row at once, as `file:line: reason`; or no row at all.
    """
    from tune.preference import Pair

    def pair(row: dict[str, Any]) -> Pair:
        better = row["response"] if "instruction" in row else row["chosen"]
        fields = {"messages": _turns(row), "chosen": _last(better), "rejected": _last(row["rejected"])}
        return Pair.model_validate({**fields, "source": "data"})

    return _read(files, pair)


def read_judged(files: list[Path]) -> "list[Judged]":
    """Answers of `{"prompt" | "messages", "completion", "label": true | false}`, TRL's unpaired form.

    Raises:
        DataError: as `read_pairs`.
    """
    from tune.preference import Judged

    def judged(row: dict[str, Any]) -> Judged:
        fields = {"messages": _turns(row), "answer": _last(row["completion"]), "good": row["label"]}
        return Judged.model_validate({**fields, "source": "data"})

    return _read(files, judged)


def _read(files: list[Path], make: Callable[[dict[str, Any]], _R]) -> list[_R]:
    made: list[_R] = []
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
                    made.append(make(json.loads(line)))
            except KeyError as error:
                faults.append(f"{file}:{number}: {error.args[0]}: " + say("없습니다", "missing"))
            except ValidationError as error:
                first = error.errors()[0]
                faults.append(f"{file}:{number}: {'.'.join(map(str, first['loc']))}: {first['msg']}")
            except (ValueError, TypeError, AttributeError, IndexError) as error:
                faults.append(f"{file}:{number}: {error}")
    if faults or not made:
        named = ", ".join(map(str, files))
        raise DataError(
            "\n".join(faults) or say(f"데이터가 비어 있습니다: {named}", f"no data: {named}"), "tune data check"
        )
    return made
