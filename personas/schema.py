"""What a persona is: the fields of `persona.yaml`. Unknown fields are errors, so a typo is never silently ignored."""

import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

NAME = r"[a-z0-9][a-z0-9-]{0,39}"
Name = Annotated[str, StringConstraints(pattern=f"^{NAME}$")]
Text = Annotated[str, StringConstraints(min_length=1, strip_whitespace=True)]

EMBEDDED_BASE = "embedded:gemma-3-270m"


def is_name(text: str) -> bool:
    """Whether a text can name a persona."""
    return re.fullmatch(NAME, text) is not None


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


class Documents(BaseModel):
    """What a persona may look up, and how much of it goes into a prompt."""

    model_config = ConfigDict(extra="forbid")

    collection: Text = Field(description="the collection's name: rag ingest PATH --collection NAME")
    top_k: int = Field(4, ge=1, le=50, description="passages at most")
    tokens: int = Field(1200, ge=100, le=100_000, description="tokens of all passages together, about")


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
    documents: Documents | None = Field(None, description="what the persona may look up")
    base: str = Field(EMBEDDED_BASE, description="embedded:NAME, a local folder, or a hub id")
