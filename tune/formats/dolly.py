"""Korean Dolly, the unified form: `instruction`, `context`, `response`, `category`, and `rejected` for DPO."""

from collections.abc import Iterator

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


class Dolly(Row):
    """One exchange, perhaps with a worse answer."""

    instruction: Text
    context: MayBeEmpty | None = None
    response: Text
    category: MayBeEmpty | None = None
    rejected: MayBeEmpty | None = None

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        yield Example(
            exchange(self.instruction, self.response),
            options.category or self.category or OPEN_QA,
            context=self.context or "",
            rejected=self.rejected or "",
        )


register(
    Format(
        name="dolly",
        title="databricks-dolly-15k-ko",
        row=Dolly,
        accepts=has("instruction", "response"),
        example={
            "instruction": "수도는 어디인가요?",
            "context": "대한민국의 수도는 서울이다.",
            "response": "서울입니다.",
            "category": "closed_qa",
            "rejected": "It is Seoul.",
        },
    )
)
