"""The document persona's records: one prompt form, answers that stay within the passages they cite, nothing twice."""

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import combinations
from typing import Any

import pytest

from personas.loader import find_persona
from tune.data import Record, read_records

FORM = re.compile(r"다음 문서를 읽고 질문에 답하세요\.\n\n((?:\[\d+\] [^\n]+\n)+)\n질문: ([^\n]+)")
PASSAGE = re.compile(r"^\[(\d+)\] (.+)$", re.MULTILINE)
INSTRUCTION = re.compile(
    "지시|명령|규칙|시스템|인공지능|모델|챗봇|비서|답[하해]|대답|쓰세요|출력|말하세요|농담|지령|개발자|물어본|지어내|무시"
    "|광고를 붙이|쓰지 마|당신은 이제"
)
DECLINES = re.compile(r"없(?:습니다|어요)|않(?:습니다|아요)")
CONTENT = ("N", "SN", "SL", "VV", "VA", "XR", "MAG")
DECLINING = "문서 내용 대하다 나오다 적히다 되다 있다 없다 모두"
KEPT = 0.8

Answer = tuple[dict[str, str], str, str]


@cache
def records(kind: str) -> list[Record]:
    folder = find_persona("docs")
    return read_records(folder.data_files if kind == "training" else [folder.eval_file])


def answers(record: Record) -> Iterator[Answer]:
    """Each question's passages by number (those of its turn, or the latest before it), the question and its answer."""
    passages: dict[str, str] = {}
    for user, assistant in zip(record.messages[::2], record.messages[1::2], strict=True):
        if found := FORM.fullmatch(user.content):
            passages = dict(PASSAGE.findall(found[1]))
        yield passages, found[2] if found else user.content, assistant.content


def grams(text: str, size: int) -> set[str]:
    squeezed = re.sub(r"[\s\W]+", "", text.lower())
    return {squeezed[i : i + size] for i in range(max(1, len(squeezed) - size + 1))}


def overlap(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def material(record: Record) -> str:
    """What a record is about: its passages and questions, without the words that every prompt has."""
    return " ".join(" ".join([*passages.values(), question]) for passages, question, _ in answers(record))


def passages_of(record: Record) -> str:
    return " ".join(text for passages, _, _ in answers(record) for text in passages.values())


def test_sizes() -> None:
    training, held_out = Counter(r.category for r in records("training")), Counter(r.category for r in records("eval"))
    assert sum(training.values()) >= 570
    assert training["unanswerable"] >= 140
    assert (sum(held_out.values()), held_out["unanswerable"]) == (80, 25)
    assert set(training) == set(held_out) == {"answerable", "unanswerable", "general"}
    assert sum(len(r.messages) > 2 for r in records("training")) >= 40


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_one_prompt_form(kind: str) -> None:
    for record in records(kind):
        first, *_ = answers(record)
        assert bool(first[0]) == (record.category != "general"), record
        for passages, _, _ in answers(record):
            assert list(passages) == [str(n) for n in range(1, len(passages) + 1)], record
            assert len(passages) <= 4, record


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_answers_cite_passages_of_their_own_turn(kind: str) -> None:
    for record in records(kind):
        for passages, _, answer in answers(record):
            cited = set(re.findall(r"\[(\d+)\]", answer))
            assert cited <= set(passages), record
            assert cited or not passages or DECLINES.search(answer), record


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_the_category_tells_whether_the_last_answer_declines(kind: str) -> None:
    for record in records(kind):
        if record.category == "unanswerable":
            assert DECLINES.search(record.messages[-1].content), record
        if record.category == "answerable":
            assert "문서에 없" not in record.messages[-1].content, record


def stems(text: str) -> list[str]:
    """The dictionary forms of a text's content words, so that 드리다 is found in 드립니다."""
    return [token.form for token in analyser().tokenize(text) if token.tag.startswith(CONTENT)]


@cache
def analyser() -> Any:
    from kiwipiepy import Kiwi  # type: ignore[import-untyped]

    return Kiwi()


def copied(passages: dict[str, str], question: str, answer: str) -> float:
    """Share of the 2-grams of an answer's content words that its cited passages have.

    What declines may name what was asked for, and the words of declining.
    """
    cited = " ".join(passages[number] for number in re.findall(r"\[(\d+)\]", answer))
    known = f"{cited} {question} {DECLINING}" if DECLINES.search(answer) else cited
    letters = "".join(stems(known)) + re.sub(r"[\s,]", "", known)
    words = stems(re.sub(r"\[\d+\]", "", answer))
    pieces = [word[i : i + 2] for word in words for i in range(len(word) - 1)]
    return sum(piece in letters for piece in pieces) / len(pieces) if pieces else 1.0


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_answers_keep_to_the_words_of_the_cited_passages(kind: str) -> None:
    cited = [answer for record in records(kind) for answer in answers(record) if re.search(r"\[\d+\]", answer[2])]
    loose = [answer for passages, question, answer in cited if copied(passages, question, answer) < KEPT]
    assert len(loose) <= 0.02 * len(cited), loose


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_answers_are_korean_but_for_words_of_the_prompt(kind: str) -> None:
    for record in records(kind):
        for passages, question, answer in answers(record):
            given = re.findall(r"[A-Za-z]+", " ".join([*passages.values(), question]))
            assert set(re.findall(r"[A-Za-z]+", answer)) <= set(given), record
            assert not re.search(r"[^\W\d_A-Za-z가-힣]", answer), record


@pytest.mark.parametrize("kind", ["training", "eval"])
def test_answers_are_polite(kind: str) -> None:
    for record in records(kind):
        for _, _, answer in answers(record):
            for sentence in re.findall(r"[^.!?]+(?:\.\d[^.!?]*)*[.!?]", re.sub(r"\[\d+\]", "", answer)):
                assert re.search(r"(?:요|니다)[.!?]$", sentence.strip()), (sentence, record)


def test_instructions_in_passages_are_not_followed() -> None:
    injected = read_records(sorted((find_persona("docs").path / "data").glob("injection*.jsonl")))
    assert len(injected) >= 50
    for record in injected:
        text, answer = passages_of(record), record.messages[-1].content
        assert INSTRUCTION.search(text), record
        assert not INSTRUCTION.search(answer), record


def test_nothing_is_nearly_there_twice() -> None:
    seen = [(grams(material(r), 3), material(r)) for r in records("training") if r.category != "general"]
    assert [(a[1], b[1]) for a, b in combinations(seen, 2) if overlap(a[0], b[0]) >= 0.6] == []


def test_held_out_passages_are_not_in_the_training_data() -> None:
    trained = [(grams(passages_of(r), 3), r) for r in records("training") if r.category != "general"]
    for record in records("eval"):
        if record.category != "general":
            mine = grams(passages_of(record), 3)
            assert [r for other, r in trained if overlap(mine, other) >= 0.5] == [], record


def test_records_are_short() -> None:
    assert [
        r for kind in ("training", "eval") for r in records(kind) if sum(len(t.content) for t in r.messages) > 600
    ] == []
