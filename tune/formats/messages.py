"""OpenAI's chat form: `{"messages": [{"role", "content"}, …]}`, a system message in front or none."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from tune.formats.base import OPEN_QA, Example, FieldError, Format, Message, Options, Row, Text, has, register


def _joined(content: object) -> object:
    """OpenAI's content parts as one text, if all of them are text."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "\n".join(str(part.get("text", "")) for part in content)
    return content


class ChatMessage(BaseModel):
    """A message of any of the three roles; other keys (name, weight) are left aside."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[Text, BeforeValidator(_joined)]


def split_system(messages: Sequence[ChatMessage], field: str) -> tuple[str, list[Message]]:
    """The system message (or empty), and the turns after it.

    Raises:
        FieldError: the turns do not alternate.
    """
    system = messages[0].content if messages and messages[0].role == "system" else ""
    turns = [{"role": one.role, "content": one.content} for one in messages[bool(system) :]]
    for i, turn in enumerate(turns):
        if turn["role"] != ("user", "assistant")[i % 2]:
            wanted = ("user", "assistant")[i % 2]
            raise FieldError(f"{field}.{i + bool(system)}.role", f"'{turn['role']}', not '{wanted}'")
    return system, turns


def answered(turns: list[Message], field: str) -> list[Message]:
    """The turns, if the assistant has the last word.

    Raises:
        FieldError: nobody answers.
    """
    if not turns or turns[-1]["role"] != "assistant":
        raise FieldError(field, "the last message is not the assistant's: no answer")
    return turns


class Messages(Row):
    """One conversation."""

    messages: list[ChatMessage] = Field(min_length=2)
    category: str = OPEN_QA

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        system, turns = split_system(self.messages, "messages")
        yield Example(answered(turns, "messages"), options.category or self.category, system=system)


register(
    Format(
        name="messages",
        title="OpenAI, TRL",
        row=Messages,
        accepts=has("messages", without=["category", "chosen"]),
        example={
            "messages": [
                {"role": "system", "content": "친절히 답하세요."},
                {"role": "user", "content": "안녕?"},
                {"role": "assistant", "content": "네, 안녕하세요."},
            ]
        },
    )
)
