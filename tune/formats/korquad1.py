"""KorQuAD 1.0: `{"qas": [{"question", "answers": [{"answer_start", "text"}], "id"}], "context"}`.

One paragraph a record, or an article with its `paragraphs`, the element of SQuAD's `data`.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, Field

from tune.formats.base import Example, FieldError, Format, Options, Raw, Row, Text, has, register
from tune.formats.passages import about, locate, validated


class Answer(BaseModel):
    """An answer and where it begins in the context, in characters."""

    text: Raw
    answer_start: int | None = None


class Question(BaseModel):
    """A question with its answers, of which the first is taken."""

    question: Text
    answers: list[Answer] = Field(min_length=1)


class Paragraph(Row):
    """A passage with its questions."""

    context: Raw
    qas: list[Any]

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        yield from self.asked(options, "qas")

    def asked(self, options: Options, field: str) -> Iterator[Example | FieldError]:
        """An example for each question; `field` is where the questions are in the record."""
        for place, asked in validated(Question, self.qas, field):
            if isinstance(asked, FieldError):
                yield asked
                continue
            answer, where = asked.answers[0], f"{place}.answers.0"
            try:
                found = locate(self.context, answer.text, answer.answer_start, where)
                yield about(found, asked.question, options, where)
            except FieldError as error:
                yield error


class Article(Row):
    """An article of several passages."""

    paragraphs: list[Any]

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        for place, paragraph in validated(Paragraph, self.paragraphs, "paragraphs"):
            if isinstance(paragraph, FieldError):
                yield paragraph
            else:
                yield from paragraph.asked(options, f"{place}.qas")


def _paragraph(record: dict[str, Any]) -> bool:
    asked = record.get("qas")
    first = asked[0] if isinstance(asked, list) and asked else {}
    return "qas" in record and not (isinstance(first, dict) and "answer" in first)


_PASSAGE = {
    "context": "대한민국의 수도는 서울이다.",
    "qas": [{"id": "q1", "question": "수도는 어디인가?", "answers": [{"text": "서울", "answer_start": 10}]}],
}

register(
    Format(
        name="korquad1",
        title="KorQuAD 1.0 (data[].paragraphs[])",
        row=Article,
        accepts=has("paragraphs"),
        example={"title": "대한민국", "paragraphs": [_PASSAGE]},
    )
)
register(Format(name="korquad1-paragraph", title="KorQuAD 1.0", row=Paragraph, accepts=_paragraph, example=_PASSAGE))
