"""Instruction records from PDFs: a model asks questions of each passage, and every answer is found in its passage."""

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from personas.lang import say
from tune.data_tools.ask import Asker, Endpoint, ask_all
from tune.data_tools.journal import Journal, key_of
from tune.data_tools.reader import Fault
from tune.formats.base import DataError, Example, Message, exchange

CATEGORY = "closed_qa"
ATTEMPTS = 2
_SHORTEST = 80  # characters of a passage that is worth a question
_ASK = (
    "다음 글을 읽고, 글만으로 답할 수 있는 서로 다른 질문을 {count}개 만드세요. 질문은 글을 보지 않은 사람도 "
    "알 수 있는 자연스러운 한국어로 쓰고, 답은 글에 있는 그대로 옮겨 적으세요. 설명 없이 JSON 목록 하나로만 답하세요: "
    '[{{"question": "질문", "answer": "글에 있는 그대로의 답"}}]\n\n글:\n{passage}'
)


@dataclass(frozen=True)
class Passage:
    """A piece of a page (counted from 1)."""

    file: Path
    page: int
    text: str


def pages(file: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each page, in NFC.

    Raises:
        DataError: it is no PDF, is locked, or holds no text.
    """
    import pypdfium2  # type: ignore[import-untyped]

    try:
        document = pypdfium2.PdfDocument(file)
    except (pypdfium2.PdfiumError, FileNotFoundError) as error:
        raise DataError(f"{file}: " + say("PDF를 열 수 없습니다", "cannot open the PDF") + f" ({error})") from error
    try:
        some = False
        for number in range(len(document)):
            text = document[number].get_textpage().get_text_bounded().replace("\r\n", "\n")
            text = unicodedata.normalize("NFC", text.replace("\0", "").replace("\ufffe", ""))
            some = some or bool(text.strip())
            yield number + 1, text
        if not some:
            raise DataError(f"{file}: " + say("글자가 없는 PDF입니다 (스캔본?)", "the PDF has no text (a scan?)"))
    finally:
        document.close()


def passages(file: Path, size: int) -> Iterator[Passage]:
    """Pieces of at most `size` characters, cut at the ends of sentences where there are any."""
    for page, text in pages(file):
        held = ""
        for sentence in re.findall(r".+?(?:[.!?。]\s+|\n{2,}|\Z)", text.strip(), re.DOTALL):
            if held and len(held) + len(sentence.rstrip()) > size:
                yield Passage(file, page, held.rstrip())
                held = ""
            held += sentence
            while len(held.rstrip()) > size:
                yield Passage(file, page, held[:size])
                held = held[size:]
        if held.strip():
            yield Passage(file, page, held.rstrip())


def worth_asking(files: Sequence[Path], size: int, faults: Callable[[Fault], None]) -> Iterator[Passage]:
    """The passages of all files that are long enough; files that cannot be read go to `faults`."""
    for file in files:
        try:
            yield from (one for one in passages(file, size) if len(one.text) >= _SHORTEST)
        except DataError as error:
            faults(Fault(file, 0, error.message.removeprefix(f"{file}: ")))


def question(passage: Passage, count: int) -> list[Message]:
    """What the model is asked."""
    return [{"role": "user", "content": _ASK.format(count=count, passage=passage.text)}]


def in_passage(answer: str, passage: str) -> str:
    """The passage's own words for an answer that differs from it in blanks at most; empty if it is not there."""
    letters = "".join(unicodedata.normalize("NFC", answer).split())
    if not letters:
        return ""
    found = re.search(r"\s*".join(map(re.escape, letters)), passage)
    return " ".join(found[0].split()) if found else ""


def pairs(reply: str, passage: Passage) -> Iterator[Example | str]:
    """The good question-and-answer pairs of a reply, and in place of each bad one, why."""
    start, end = reply.find("["), reply.rfind("]")
    try:
        listed: Any = json.loads(reply[start : end + 1]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, list):
        yield say("답이 JSON 목록이 아님", "the reply is no JSON list")
        return
    for one in listed:
        asked, answer = (one.get("question"), one.get("answer")) if isinstance(one, dict) else (None, None)
        if not (isinstance(asked, str) and isinstance(answer, str) and asked.strip()):
            yield say("질문이나 답이 없음", "no question or no answer")
        elif not (own := in_passage(answer, passage.text)):
            yield say(f"글에 없는 답: {answer[:40]}", f"not in the passage: {answer[:40]}")
        else:
            yield Example(exchange(asked.strip(), own), CATEGORY, context=passage.text)


def _good(reply: str, passage: Passage) -> list[Example]:
    return [one for one in pairs(reply, passage) if isinstance(one, Example)]


async def ask_for(
    todo: Iterator[Passage], count: int, endpoint: Endpoint, journal: Journal, report: Callable[[int], None]
) -> None:
    """First pass: have a reply with a good pair in the journal for every passage, if the model gives one.

    Raises:
        DataError: the endpoint refuses, or the budget is used up.
    """

    async def work(passage: Passage, ask: Asker) -> None:
        for attempt in range(ATTEMPTS):
            answer = await ask(question(passage, count), 256 * count, attempt)
            if _good(answer.text, passage):
                break
        report(1)

    await ask_all(endpoint, journal, todo, work)


def records(done: Iterator[Passage], count: int, endpoint: Endpoint, journal: Journal) -> Iterator[Example | Fault]:
    """Second pass: every pair whose answer is in its passage, each question once, and what was left out and why."""
    seen: set[bytes] = set()
    for passage in done:
        for attempt in range(ATTEMPTS):
            answer = journal.get(endpoint.key(question(passage, count), attempt))
            for one in pairs(answer.text, passage) if answer else ():
                if isinstance(one, str):
                    yield Fault(passage.file, passage.page, one)
                    continue
                key = key_of("".join(one.instruction.split()), passage.text)
                if key not in seen:
                    seen.add(key)
                    yield one
