"""What a persona is: the fields of `persona.yaml`. Unknown fields are errors, so a typo is never silently ignored."""

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

NAME = r"[a-z0-9][a-z0-9-]{0,39}"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]

EMBEDDED_BASE = "embedded:gemma-3-270m"


def is_name(text: str) -> bool:
    """Whether a text can name a persona."""
    return re.fullmatch(NAME, text) is not None


Policy = Literal["off", "observe", "enforce"]


class Sampling(BaseModel):
    """Default sampling of a persona: applied only where the client's request says nothing."""

    model_config = ConfigDict(extra="forbid")

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1, le=8192)
    stop: list[str] | None = None


class Guard(BaseModel):
    """What language a persona must speak, and what happens to a sentence in another one."""

    model_config = ConfigDict(extra="forbid")

    mode: Policy = Field("enforce", description="observe: drift is counted, and the reply goes on as it is")
    language: Literal["ko"] = "ko"
    threshold: float = Field(0.3, gt=0, le=1, description="share of English letters that makes a sentence drift")
    tries: int = Field(2, ge=0, le=4, description="new answers from the last good sentence on")
    allow: list[Text] = Field(default_factory=list, description="words in Latin letters that always pass")
    fallback: Text = Field("지금은 한국어로 대답이 잘 나오지 않네요. 다시 한번 물어봐 주시겠어요?")


class Policies(BaseModel):
    """What is looked for in requests and replies. `observe` counts it; `enforce` acts."""

    model_config = ConfigDict(extra="forbid")

    harmful: Policy = Field("off", description="enforce: a harmful request is answered in the safe persona's manner")
    openings: dict[str, Text] = Field(
        default_factory=dict,
        description="of the safe persona: how such an answer begins, by category (self-harm) or `default`",
    )
    personal_data_in: Policy = Field("off", description="enforce: masked before the model reads it")
    personal_data_out: Policy = Field("off", description="enforce: masked before the reader sees it")


class Judge(BaseModel):
    """A model that compares the candidate's answers with the live version's, at any OpenAI-compatible address."""

    model_config = ConfigDict(extra="forbid")

    url: Text = Field(description="up to and with /v1")
    model: Text
    key_env: str = Field("OPENAI_API_KEY", description="the environment variable that holds its key")
    least_wins: float = Field(0.5, ge=0, le=1, description="wins and half of the draws, as a share")


class Gate(BaseModel):
    """What a candidate must show on the held-out set before it goes live; shares are 0 to 1."""

    model_config = ConfigDict(extra="forbid")

    prompts: int = Field(24, ge=1, description="held-out prompts that are answered, spread over the categories")
    max_tokens: int = Field(96, ge=8, description="of each answer")
    least_korean: float = Field(0.9, ge=0, le=1, description="answers with Hangul and no sentence in another language")
    most_hanja_kana: float = Field(0.05, ge=0, le=1, description="answers with Hanja or Kana")
    least_ended: float = Field(0.8, ge=0, le=1, description="answers that come to an end by themselves")
    most_loops: float = Field(0.1, ge=0, le=1)
    least_refusals: float = Field(0.0, ge=0, le=1, description="of `harmful` prompts, where the set has them")
    most_over_refusals: float = Field(0.2, ge=0, le=1, description="of `lookalike` prompts")
    most_loss_rise: float = Field(0.03, ge=0, description="of the loss on references, against the live version's")
    most_fall: float = Field(0.1, ge=0, le=1, description="of any share, against the live version's")
    judge: Judge | None = None


class Documents(BaseModel):
    """What a persona may look up, and how much of it goes into a prompt."""

    model_config = ConfigDict(extra="forbid")

    collection: Text = Field(description="the collection's name: rag ingest PATH --collection NAME")
    top_k: int = Field(4, ge=1, le=50, description="passages at most")
    tokens: int = Field(1200, ge=100, le=100_000, description="tokens of all passages together, about")


class ExampleMemory(BaseModel):
    """Which of the persona's own exchanges the model is shown at each turn."""

    model_config = ConfigDict(extra="forbid")

    top_k: int = Field(2, ge=1, le=16, description="exchanges at most")
    tokens: int = Field(240, ge=20, le=10_000, description="of all of them together, about")
    least: float = Field(0.35, ge=0, le=1, description="nearness, 1 = the same")


class BestOf(BaseModel):
    """Of several replies to the same prompt the reader gets the best supported; see `serve/best_of.py`."""

    model_config = ConfigDict(extra="forbid")

    n: int = Field(4, ge=2, le=16, description="replies that are written at once")


class Persona(BaseModel):
    """One character: how it is shown, what it is told, how it samples and which base model carries it.

    `name` is the public model name in the API and the folder's name on disk.
    """

    model_config = ConfigDict(extra="forbid")

    name: Name
    title: Text = Field(description="the name that people see")
    description: Text
    greeting: Text = Field(description="the first message of the chat page")
    questions: list[Text] = Field(default_factory=list, description="example questions of the chat page", max_length=8)
    system_prompt: Text
    sampling: Sampling = Field(default_factory=Sampling)
    guard: Guard | None = Field(None, description="the language guard; none where it is left out")
    policies: Policies = Field(default_factory=Policies, description="harmful requests, personal data")
    gate: Gate = Field(default_factory=Gate, description="what a new version must show to go live")
    documents: Documents | None = Field(None, description="what the persona may look up")
    example_memory: ExampleMemory | None = Field(
        None, description="its own exchanges in the prompt; none where it is left out"
    )
    best_of: BestOf | None = Field(
        None, description="the best of several replies is sent, whole; the first is, as it comes, where it is left out"
    )
    shared_data: list[Name] = Field(
        default_factory=list, description="folders beside this one whose data/ is trained too, with this system prompt"
    )
    tuning: dict[str, str | bool | int | float | list[float]] = Field(
        default_factory=dict, description="settings of `tune persona NAME` that are not its preset's"
    )
    base: str = Field(EMBEDDED_BASE, description="embedded:NAME, a local folder, or a hub id")

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.name in self.shared_data or len(set(self.shared_data)) < len(self.shared_data):
            raise ValueError("shared_data: its own folder, or one twice; each record is trained once")
        if self.best_of and self.guard and self.guard.mode == "enforce":
            raise ValueError("best_of and guard: leave out one, or let the guard observe; each sees to the language")
        if self.example_memory and self.documents:
            raise ValueError("example_memory and documents: leave out one; passages leave no room for examples")
        return self
