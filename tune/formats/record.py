"""Our own form: `{"category", "messages": [user, assistant, …]}`, what a persona's data folder holds."""

from collections.abc import Iterator

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from tune.formats.base import Example, FieldError, Format, MayBeEmpty, Message, Options, Row, Turn, has, register


class Record(Row):
    """One conversation: user and assistant in turn, the assistant last."""

    model_config = ConfigDict(extra="forbid")

    category: str
    topic: str = ""  # of a harmful request: OpenAI's moderation category, which `serve moderation fit` learns
    messages: list[Turn]
    # `tune sft` alone takes one; left out of a dump if empty, so that hashes of data without one stay the same
    system: MayBeEmpty = Field("", exclude_if=lambda text: not text)

    @model_validator(mode="after")
    def _in_turn(self) -> "Record":
        check_turns([turn.role for turn in self.messages])
        return self

    @property
    def prompt(self) -> str:
        """The first thing that the user says."""
        return self.messages[0].content

    def conversation(self, system_prompt: str) -> list[Message]:
        """The messages with the record's own system prompt in front, else the given one; none if both are empty."""
        system = self.system or system_prompt
        front = [{"role": "system", "content": system}] if system else []
        return [*front, *(turn.model_dump() for turn in self.messages)]

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        turns = [turn.model_dump() for turn in self.messages]
        yield Example(turns, options.category or self.category, system=self.system)


def check_turns(roles: list[str]) -> None:
    """Refuse a conversation that is not user and assistant in turn with the assistant last."""
    if not roles or roles != ["user", "assistant"] * (len(roles) // 2):
        raise PydanticCustomError(
            "turns", "roles must alternate user, assistant and end with assistant, not {roles}", {"roles": str(roles)}
        )


register(
    Format(
        name="record",
        title="Gamyeon",
        row=Record,
        accepts=has("category", "messages"),
        example={
            "category": "small_talk",
            "messages": [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "그래, 반갑다."}],
        },
    )
)
