"""Alpaca and KoAlpaca: `instruction`, `input` (may be missing), `output`; LLaMA-Factory's `system`, `history`."""

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from tune.formats.base import (
    OPEN_QA,
    Example,
    FieldError,
    Format,
    MayBeEmpty,
    Options,
    Row,
    Text,
    exchange,
    has,
    register,
)


class Alpaca(Row):
    """One exchange, after those of its history."""

    category_here: ClassVar[str] = OPEN_QA

    instruction: Text
    input: MayBeEmpty | None = None
    output: Text
    system: MayBeEmpty | None = None
    history: Annotated[list[tuple[Text, Text]] | None, BeforeValidator(lambda value: value or None)] = None

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        turns = [turn for earlier in self.history or [] for turn in exchange(*earlier)]
        yield Example(
            [*turns, *exchange(self.instruction, self.output)],
            options.category or self.category_here,
            context=self.input or "",
            system=self.system or "",
        )


register(
    Format(
        name="alpaca",
        title="Alpaca, KoAlpaca",
        row=Alpaca,
        accepts=has("instruction", "output"),
        aliases=("koalpaca",),
        example={
            "instruction": "한 문장으로 줄이세요.",
            "input": "봄이다. 꽃이 피었다.",
            "output": "봄꽃이 피었다.",
        },
    )
)
