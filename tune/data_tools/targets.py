"""The forms that data is written in: what each makes of an example, and the type of its columns."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from personas.lang import say
from tune.formats.base import DataError, Example, FieldError, Message

Column = Literal["text", "messages", "said", "pairs"]


@dataclass(frozen=True)
class Target:
    """One form: its columns, and the rows that an example becomes. `system`: whether a system message fits in."""

    columns: dict[str, Column]
    rows: Callable[[Example], Iterator[dict[str, Any]]]
    system: bool = False


def _told(turns: list[Message]) -> str:
    """Earlier turns as text, for forms that have no place for them but the context."""
    names = {"user": "질문", "assistant": "답변"}
    return "\n".join(f"{names[turn['role']]}: {turn['content']}" for turn in turns)


def _dolly_row(example: Example, end: int) -> dict[str, Any]:
    """The exchange that ends before turn `end`, what was said earlier in its context."""
    last = end == len(example.turns)
    context = [_told(example.turns[: end - 2]), example.context if last else ""]
    row = {
        "instruction": example.turns[end - 2]["content"],
        "context": "\n\n".join(part for part in context if part),
        "response": example.turns[end - 1]["content"],
        "category": example.category,
    }
    return {**row, "rejected": example.rejected} if last and example.rejected else row


def _dolly(example: Example) -> Iterator[dict[str, Any]]:
    for end in range(2, len(example.turns) + 1, 2):
        yield _dolly_row(example, end)


def _dpo(example: Example) -> Iterator[dict[str, Any]]:
    yield _dolly_row(_with_rejected(example), len(example.turns))


def _with_rejected(example: Example) -> Example:
    if not example.rejected:
        raise FieldError("rejected", say("거절된 답이 없습니다 (`tune data reject`)", "missing (`tune data reject`)"))
    return example


def _all(example: Example) -> list[Message]:
    system = [{"role": "system", "content": example.system}] if example.system else []
    return [*system, *example.messages()]


def _messages(example: Example) -> Iterator[dict[str, Any]]:
    yield {"messages": _all(example)}


def _record(example: Example) -> Iterator[dict[str, Any]]:
    yield {"category": example.category, "messages": example.messages()}


def _preference(example: Example) -> Iterator[dict[str, Any]]:
    *prompt, chosen = _all(_with_rejected(example))
    yield {"prompt": prompt, "chosen": [chosen], "rejected": [{"role": "assistant", "content": example.rejected}]}


def _prompt_completion(example: Example) -> Iterator[dict[str, Any]]:
    *prompt, completion = _all(example)
    yield {"prompt": prompt, "completion": [completion]}


def _alpaca(example: Example) -> Iterator[dict[str, Any]]:
    said = [turn["content"] for turn in example.turns[:-2]]
    yield {
        "instruction": example.instruction,
        "input": example.context,
        "output": example.response,
        "system": example.system,
        "history": [list(pair) for pair in zip(said[::2], said[1::2], strict=True)],
    }


def _sharegpt(example: Example) -> Iterator[dict[str, Any]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    yield {"conversations": [{"from": names[turn["role"]], "value": turn["content"]} for turn in _all(example)]}


_DOLLY: dict[str, Column] = dict.fromkeys(("instruction", "context", "response", "category", "rejected"), "text")
TARGETS = {
    "dolly": Target(_DOLLY, _dolly),
    "dpo": Target(_DOLLY, _dpo),
    "messages": Target({"messages": "messages"}, _messages, system=True),
    "record": Target({"category": "text", "messages": "messages"}, _record),
    "preference": Target(
        {"prompt": "messages", "chosen": "messages", "rejected": "messages"}, _preference, system=True
    ),
    "prompt-completion": Target({"prompt": "messages", "completion": "messages"}, _prompt_completion, system=True),
    "alpaca": Target(
        {"instruction": "text", "input": "text", "output": "text", "system": "text", "history": "pairs"},
        _alpaca,
        system=True,
    ),
    "sharegpt": Target({"conversations": "said"}, _sharegpt, system=True),
}


def target_named(name: str) -> Target:
    """A form by its name.

    Raises:
        DataError: there is none of that name.
    """
    if name not in TARGETS:
        raise DataError(
            say(f"'{name}' 형식으로는 쓸 수 없습니다", f"cannot write '{name}'"), "--to " + " | ".join(TARGETS)
        )
    return TARGETS[name]
