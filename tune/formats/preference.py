"""Preferences: `prompt`, `chosen`, `rejected`, as strings or message lists; Alpaca's `instruction` for `prompt`.

In message lists the prompt may be missing: it is then what both answers begin with (TRL's implicit prompt).
"""

from collections.abc import Iterator

from pydantic import AliasChoices, Field

from tune.formats.base import OPEN_QA, Example, FieldError, Format, MayBeEmpty, Options, Row, Text, has, register
from tune.formats.messages import ChatMessage
from tune.formats.prompt_completion import joined

Answer = Text | list[ChatMessage] | ChatMessage


class Preference(Row):
    """A prompt with a better and a worse answer."""

    prompt: Answer | None = Field(None, validation_alias=AliasChoices("prompt", "messages", "instruction", "question"))
    input: MayBeEmpty | None = None
    system: MayBeEmpty | None = None
    chosen: Answer
    rejected: Answer
    category: str = OPEN_QA

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        chosen, rejected = _listed(self.chosen), _listed(self.rejected)
        category = options.category or self.category
        if self.prompt is None:
            common = _common(chosen, rejected)
            better, worse = (joined(common, answer[len(common) :], "chosen", category) for answer in (chosen, rejected))
        else:
            prompt = _listed(self.prompt)
            better, worse = joined(prompt, chosen, "chosen", category), joined(prompt, rejected, "rejected", category)
        if better.response == worse.response:
            raise FieldError("rejected", "the same as chosen")
        better.rejected, better.context = worse.response, self.input or ""
        better.system = self.system or better.system
        yield better


def _listed(answer: str | list[ChatMessage] | ChatMessage) -> str | list[ChatMessage]:
    return [answer] if isinstance(answer, ChatMessage) else answer


def _common(chosen: str | list[ChatMessage], rejected: str | list[ChatMessage]) -> list[ChatMessage]:
    """The messages that both answers begin with.

    Raises:
        FieldError: none, or plain strings, of which nobody can tell the prompt.
    """
    if isinstance(chosen, str) or isinstance(rejected, str) or chosen[:1] != rejected[:1] or not chosen:
        raise FieldError("prompt", "missing, and chosen and rejected do not begin with the same messages")
    same = 0
    while same < min(len(chosen), len(rejected)) - 1 and chosen[same] == rejected[same]:
        same += 1
    return chosen[:same]


register(
    Format(
        name="preference",
        title="TRL, UltraFeedback, LLaMA-Factory (ranking)",
        row=Preference,
        accepts=has("chosen", "rejected"),
        example={"prompt": "수도는 어디인가요?", "chosen": "서울입니다.", "rejected": "It is Seoul."},
    )
)
