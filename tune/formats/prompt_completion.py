"""TRL's prompt and completion, each a string or a list of messages."""

from collections.abc import Iterator

from tune.formats.base import OPEN_QA, Example, FieldError, Format, Options, Row, Text, exchange, has, register
from tune.formats.messages import ChatMessage, answered, split_system


class PromptCompletion(Row):
    """One conversation in two parts."""

    prompt: Text | list[ChatMessage]
    completion: Text | list[ChatMessage]
    category: str = OPEN_QA

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        yield joined(self.prompt, self.completion, "completion", options.category or self.category)


def joined(prompt: str | list[ChatMessage], answer: str | list[ChatMessage], field: str, category: str) -> Example:
    """The conversation that a prompt and its answer make; either may be plain text."""
    asked = [ChatMessage(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    replied = [ChatMessage(role="assistant", content=answer)] if isinstance(answer, str) else answer
    if isinstance(prompt, str) and isinstance(answer, str):
        return Example(exchange(prompt, answer), category)
    system, turns = split_system([*asked, *replied], field)
    return Example(answered(turns, field), category, system=system)


register(
    Format(
        name="prompt-completion",
        title="TRL, OpenAI (legacy)",
        row=PromptCompletion,
        accepts=has("prompt", "completion"),
        example={"prompt": "하늘은 왜 파랗나요?", "completion": "짧은 파장의 빛이 더 많이 흩어지기 때문입니다."},
    )
)
