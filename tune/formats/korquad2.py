"""KorQuAD 2.0: `data` of `{"title", "context", "raw_html"?, "qas": [{"answer": {"text", "answer_start", …}, …}]}`.

Contexts are whole web pages and may hold HTML: it is stripped, and cut to a window around the answer. Where the
context lacks the answer, it is looked for in `raw_html`.
"""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from tune.formats.base import Example, FieldError, Format, Options, Raw, Row, Text, register
from tune.formats.passages import Found, about, locate, plain_text, validated


class Answer(BaseModel):
    """An answer, where it begins in the context, and the same in the page's HTML; starts are in characters."""

    text: Raw
    answer_start: int | None = None
    html_answer_text: str | None = None
    html_answer_start: int | None = None


class Question(BaseModel):
    """A question and its answer."""

    question: Text
    answer: Answer


class Page(Row):
    """A web page with its questions."""

    context: Raw
    raw_html: str | None = None
    qas: list[Any]

    def _found(self, answer: Answer, field: str) -> Found:
        try:
            return locate(self.context, answer.text, answer.answer_start, field, plain_text)
        except FieldError:
            if not (self.raw_html and answer.html_answer_text):
                raise
            return locate(self.raw_html, answer.html_answer_text, answer.html_answer_start, field, plain_text)

    def examples(self, options: Options) -> Iterator[Example | FieldError]:
        for place, asked in validated(Question, self.qas, "qas"):
            if isinstance(asked, FieldError):
                yield asked
                continue
            where = f"{place}.answer"
            try:
                yield about(self._found(asked.answer, where), asked.question, options, where)
            except FieldError as error:
                yield error


def _page(record: dict[str, Any]) -> bool:
    asked = record.get("qas")
    return isinstance(asked, list) and bool(asked) and isinstance(asked[0], dict) and "answer" in asked[0]


register(
    Format(
        name="korquad2",
        title="KorQuAD 2.0",
        row=Page,
        accepts=_page,
        example={
            "title": "서울",
            "url": "https://ko.wikipedia.org/wiki/서울",
            "context": "<h1>서울</h1><p>대한민국의 <b>수도</b>이다.</p>",
            "qas": [{"id": "1", "question": "서울은?", "answer": {"text": "<b>수도</b>이다", "answer_start": 22}}],
        },
    )
)
