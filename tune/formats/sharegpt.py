"""ShareGPT and KoVicuna: `{"id", "conversations": [{"from": "human" | "gpt", "value"}, …]}`.

A human turn is the instruction and the gpt turn after it the response. (The write-up that the formats come from has
them the wrong way round.) Values hold `\\r\\n`, which becomes `\\n`.
"""

from collections.abc import Iterator

from pydantic import AliasChoices, BaseModel, Field, model_validator
from pydantic_core import PydanticCustomError

from tune.formats.base import (
    OPEN_QA,
    Example,
    FieldError,
    Format,
    MayBeEmpty,
    Message,
    Options,
    Row,
    Text,
    has,
    register,
)

ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class Said(BaseModel):
    """What one side says."""

    speaker: str = Field(validation_alias=AliasChoices("from", "role"))
    value: Text = Field(validation_alias=AliasChoices("value", "content"))

    @model_validator(mode="after")
    def _known(self) -> "Said":
        if self.speaker not in ROLES:
            raise PydanticCustomError("speaker", "'{who}' is neither human nor gpt", {"who": self.speaker})
        return self


class ShareGpt(Row):
    """One conversation. A greeting of gpt's before the first question, and a last question without an answer, as the
    dumps have them, carry nothing to learn from and are left off."""

    conversations: list[Said]
    system: MayBeEmpty | None = None
    category: str = OPEN_QA

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        said = [(ROLES[one.speaker], one.value) for one in self.conversations]
        system = self.system or ""
        if said and said[0][0] == "system":
            system = said.pop(0)[1]
        if said and said[0][0] == "assistant":
            said.pop(0)
        if said and said[-1][0] == "user":
            said.pop()
        yield Example(_in_turn(said), options.category or self.category, system=system)


def _in_turn(said: list[tuple[str, str]]) -> list[Message]:
    if not said:
        raise FieldError("conversations", "no question of a human with an answer of gpt after it")
    for i, (role, _) in enumerate(said):
        if role != ("user", "assistant")[i % 2]:
            raise FieldError("conversations", f"two turns of the same side, or a system message, at turn {i + 1}")
    return [{"role": role, "content": value} for role, value in said]


register(
    Format(
        name="sharegpt",
        title="ShareGPT, KoVicuna",
        row=ShareGpt,
        accepts=has("conversations"),
        aliases=("kovicuna",),
        example={
            "id": "k1",
            "conversations": [{"from": "human", "value": "안녕?"}, {"from": "gpt", "value": "네, 안녕하세요."}],
        },
    )
)
