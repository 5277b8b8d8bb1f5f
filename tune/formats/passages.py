"""Passages with an answer in them: HTML made plain, and a window around the answer that fits the training length."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from lxml import etree, html  # type: ignore[import-untyped]
from pydantic import BaseModel, ValidationError

from personas.lang import say
from personas.texts import clean
from tune.formats.base import OPEN_QA, Example, FieldError, Options, exchange

RowT = TypeVar("RowT", bound=BaseModel)

# Private-use characters, put around an answer before markup is taken off and looked for afterwards.
BEGIN, END = "\ue000", "\ue001"
_EDGE = "\ue002"
_RESERVED = {ord(mark): " " for mark in (BEGIN, END, _EDGE)}  # icon fonts use them; places in the text stay the same
_BLOCKS = re.compile(
    "<(?=/?(?:address|article|aside|blockquote|br|caption|d[dlt]|div|fig(?:caption|ure)|footer|form|h[1-6r]|header|li|main"
    r"|nav|[ou]l|p|pre|section|table|t(?:body|foot|head)|tr)\b)",
    re.IGNORECASE,
)
_CELLS = re.compile(r"<(?=/?t[dh]\b)", re.IGNORECASE)
_HIDDEN = ("script", "style", "noscript", "template", "head", etree.Comment, etree.ProcessingInstruction)
OVERHEAD = 64  # tokens of the template's own marks and of a short system prompt


def plain_text(markup: str) -> str:
    """The text that a browser would show, a block a line.

    Edges are marked in the markup itself, so that libxml2 does the rest: many times as fast as walking the elements.
    """
    if "<" not in markup and "&" not in markup:
        return markup.strip()
    marked = _CELLS.sub(" <", _BLOCKS.sub(f"{_EDGE}<", markup))
    parser = html.HTMLParser(encoding="utf-8", huge_tree=True)
    page = html.document_fromstring(marked.encode("utf-8", "replace"), parser)
    etree.strip_elements(page, *_HIDDEN, with_tail=False)
    text = " ".join(str(page.text_content()).split())
    return re.sub(f" ?(?:{_EDGE} ?)+", "\n", text).strip()


@dataclass(frozen=True)
class Found:
    """An answer in its passage, both plain: `passage[start:end]` is the answer."""

    passage: str
    start: int
    end: int

    @property
    def answer(self) -> str:
        return self.passage[self.start : self.end]


def locate(context: str, answer: str, start: int | None, field: str, plain: Callable[[str], str] = clean) -> Found:
    """Find an answer in its passage.

    Args:
        context: the passage as published.
        answer: the answer as published.
        start: where the answer is said to begin in `context`; where that is wrong, the nearest occurrence is taken.
        field: for the error.
        plain: makes both readable, such as `plain_text`.

    Raises:
        FieldError: the answer is not in the passage, or has no text.
    """
    context, answer = context.translate(_RESERVED), answer.translate(_RESERVED)
    if start is None or context[start : start + len(answer)] != answer:
        at = [match.start() for match in re.finditer(re.escape(answer), context)]
        if not at:
            return _locate_plain(clean(plain(context)), clean(plain(answer)).strip(), field)
        near = start or 0
        start = min(at, key=lambda where: abs(where - near))
    end = start + len(answer)
    marked = clean(plain(f"{context[:start]}{BEGIN}{answer}{END}{context[end:]}"))
    head, _, rest = marked.partition(BEGIN)
    inside, _, tail = rest.partition(END)
    kept = inside.strip()
    if not kept:
        raise FieldError(field, say("답에 글자가 없습니다 (태그뿐)", "the answer has no text, only markup"))
    head += inside[: len(inside) - len(inside.lstrip())]
    return Found(head + kept + inside[len(inside.rstrip()) :] + tail, len(head), len(head) + len(kept))


def _locate_plain(passage: str, answer: str, field: str) -> Found:
    at = passage.find(answer) if answer else -1
    if at < 0:
        raise FieldError(field, say("답이 본문에 없습니다", "the answer is not in its context"))
    return Found(passage, at, at + len(answer))


def window(found: Found, question: str, options: Options, field: str) -> str:
    """The passage, or a part of it around the answer, such that the record fits `options.max_length` tokens.

    Raises:
        FieldError: question and answer alone are too long.
    """
    answer = found.answer
    room = options.max_length - OVERHEAD - options.count(question) - options.count(answer)
    needed = options.count(answer)
    if needed > room:
        raise FieldError(
            field,
            say(
                f"답만 {needed} 토큰입니다 (max_length {options.max_length})",
                f"the answer alone has {needed} tokens (max_length {options.max_length})",
            ),
        )
    if len(found.passage) <= room * 8 and options.count(found.passage) <= room:
        return found.passage
    size = min(room * 4, len(found.passage))
    while True:
        cut = _cut(found, max(size, len(answer)))
        counted = options.count(cut)
        if counted <= room or size <= len(answer):
            return cut if counted <= room else answer
        size = min(size - 1, int(size * room / counted * 0.97))


def _cut(found: Found, size: int) -> str:
    """`size` characters around the answer, drawn in to the nearest blanks outside it."""
    spare = max(0, size - (found.end - found.start))
    left = max(0, found.start - spare // 2)
    right = min(len(found.passage), left + size)
    right = max(right, found.end)
    left = max(0, min(left, right - size, found.start))
    head, tail = found.passage[left : found.start], found.passage[found.end : right]
    if left > 0 and (blank := re.search(r"\s", head)):
        head = head[blank.end() :]
    if right < len(found.passage) and (blank := re.search(r"\s\S*$", tail)):
        tail = tail[: blank.start()]
    return f"{head}{found.answer}{tail}"


def validated(row: type[RowT], items: list[Any], field: str) -> Iterator[tuple[str, RowT | FieldError]]:
    """Each item of a list as its own small record, so that one bad item does not take the others with it."""
    for i, item in enumerate(items):
        place = f"{field}.{i}"
        try:
            yield place, row.model_validate(item)
        except ValidationError as error:
            yield place, FieldError.of(error, place)


def about(found: Found, question: str, options: Options, field: str) -> Example:
    """The exchange of a question and its answer over the part of the passage that fits."""
    context = window(found, question, options, field)
    return Example(exchange(question, found.answer), options.category or OPEN_QA, context=context)
