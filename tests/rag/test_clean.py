"""Raw pages to blocks and passages: what a page repeats is dropped, what it breaks is mended, places are kept."""

from pathlib import Path

import pytest

from rag.clean import clean, tidy
from rag.load import load
from rag.pages import Block, Line, Parsed, RawPage
from rag.settings import RagSettings
from rag.split import split, without_contents
from rag.terms import one_word, sentences, terms


def page(number: int, *texts: str, size: float = 11, x1: float = 500) -> RawPage:
    lines = [Line(text, 60, x1, 700 - 13 * i, 712 - 13 * i, size) for i, text in enumerate(texts)]
    head = Line("회사 기밀", 250, 330, 810, 820, 9)
    foot = Line(f"- {number} -", 290, 300, 20, 30, 9)
    return RawPage(number, 595, 842, [head, *lines, foot])


def bare(number: int, *texts: str) -> RawPage:
    """A page without header and footer."""
    made = page(number, *texts)
    made.lines = made.lines[1:-1]
    return made


def never(left: str, right: str) -> bool:
    return False


def test_headers_and_page_numbers_are_dropped() -> None:
    blocks = clean(Parsed("t", [page(n, f"{n}번째 쪽의 본문입니다.") for n in range(1, 6)]), never)
    assert [block.text for block in blocks] == [f"{n}번째 쪽의 본문입니다." for n in range(1, 6)]
    assert [block.page for block in blocks] == [1, 2, 3, 4, 5]


def test_a_chapter_title_at_the_top_of_pages_stays() -> None:
    pages = [page(n, "본문입니다. 여기에 글이 이어집니다.") for n in range(1, 7)]
    for n, each in enumerate(pages, 1):
        each.lines.insert(0, Line(f"제{n}장", 60, 120, 780, 800, 20))
    texts = [block.text for block in clean(Parsed("t", pages), never) if block.level]
    assert texts == [f"제{n}장" for n in range(1, 7)]


def test_a_word_broken_at_a_line_end_is_mended() -> None:
    broken = bare(1, "사용자가 처음 실행할 때 설정 파일을 만들", "고 데이터베이스를 초기화합니다.")
    assert (
        clean(Parsed("t", [broken]), one_word)[0].text
        == "사용자가 처음 실행할 때 설정 파일을 만들고 데이터베이스를 초기화합니다."
    )
    kept = bare(1, "이 일에는 두 사람의", "승인이 필요합니다.")
    assert clean(Parsed("t", [kept]), one_word)[0].text == "이 일에는 두 사람의 승인이 필요합니다."


def test_the_document_itself_tells_what_is_one_word() -> None:
    parsed = Parsed("t", [bare(1, "그 국제협력담당관 자리는 비었고 국제협력", "담당관 후임을 찾습니다.")])
    assert "국제협력담당관 후임" in clean(parsed, never)[0].text


@pytest.mark.parametrize(
    ("left", "right", "whole"), [("docu\x02", "mentation", "documentation"), ("well-", "known", "well-known")]
)
def test_hyphens_at_a_line_end(left: str, right: str, whole: str) -> None:
    assert whole in clean(Parsed("t", [bare(1, f"the {left}", f"{right} text")]), never)[0].text


def test_a_paragraph_runs_over_a_page_and_keeps_both_numbers() -> None:
    first = bare(1, "이 문단은 첫째 쪽에서 시작하여 다음 쪽으로 이어지는 긴 글이며 마침표가")
    second = bare(2, "다음 쪽에 있습니다. 그래서 한 문단입니다.")
    (block,) = clean(Parsed("t", [first, second]), never)
    assert block.page == 1
    assert [number for _, number in block.turns] == [2]
    assert block.text[block.turns[0][0] :].startswith("다음 쪽에")


def test_cells_side_by_side_become_a_row() -> None:
    lines = [
        Line("등급", 60, 90, 700, 712, 11), Line("월 요금", 200, 240, 700, 712, 11),
        Line("기본", 60, 90, 680, 692, 11), Line("9,900원", 200, 245, 680, 692, 11),
    ]  # fmt: skip
    (block,) = clean(Parsed("t", [RawPage(1, 595, 842, lines)]), never)
    assert (block.kind, block.text) == ("table", "등급 | 월 요금\n기본 | 9,900원")


def test_a_narrow_cell_that_wraps_stays_one_cell() -> None:
    lines = [
        Line("전문", 60, 84, 700, 712, 11), Line("가", 60, 72, 686, 698, 11),
        Line("29,000", 99, 139, 700, 712, 11), Line("원", 99, 111, 686, 698, 11),
        Line("열 사람까지", 152, 211, 693, 705, 11),
    ]  # fmt: skip
    (block,) = clean(Parsed("t", [RawPage(1, 595, 842, lines)]), lambda left, right: True)
    assert block.text == "전문가 | 29,000원 | 열 사람까지"


def test_unseen_characters_go() -> None:
    assert tidy("보\u200b증\x07 ﬁle ＡＢ\xa0１") == "보증 file AB 1"
    assert tidy("한글") == "한글"


def test_contents_are_left_out() -> None:
    blocks = [
        Block("차례", 1, 1), Block("1. 설치 ........ 2", 1), Block("2. 보증", 1), Block("설치", 2, 1),
        Block("정수기는 벽에서 떨어뜨려 놓습니다.", 2), Block("2장. 보증", 3, 1), Block("2년입니다.", 3),
    ]  # fmt: skip
    assert [b.text for b in without_contents(blocks)] == [
        "설치", "정수기는 벽에서 떨어뜨려 놓습니다.", "2장. 보증", "2년입니다.",
    ]  # fmt: skip


def test_passages_end_at_sentences_and_know_their_place() -> None:
    blocks = [Block("3장 보증", 1, 1)]
    blocks += [Block(" ".join(f"{n}항의 {i}째 문장은 여기에서 끝납니다." for i in range(12)), n) for n in range(1, 6)]
    found = split(blocks, sentences, 300)
    text = "\n".join(block.text for block in blocks)
    for passage in found:
        assert text[passage.start : passage.end] == passage.text
        assert passage.text.endswith("끝납니다.")
        assert passage.heading == "3장 보증"
        assert len(passage.text) <= 345
    assert "".join(p.text for p in found).replace("\n", "").replace(" ", "") == text.replace("\n", "").replace(" ", "")
    assert {p.page for p in found} == {1, 2, 3, 4, 5}


def test_section_numbers_order_headings() -> None:
    blocks = [
        Block("8.1.6. 그 밖의 도구", 1, 4),
        Block("글입니다. " * 20, 1),
        Block("9. 갱신", 2, 6),
        Block("글입니다.", 2),
    ]
    assert split(blocks, sentences)[-1].heading == "9. 갱신"


def test_a_sentence_without_end_is_cut() -> None:
    assert all(len(p.text) <= 575 for p in split([Block("가나다라 " * 1000, 1)], sentences))
    assert sum(len(p.text) for p in split([Block("가" * 5000, 1)], sentences)) == 5000


def test_words_as_they_are_asked_for() -> None:
    found = terms("/etc/apt/sources.list 파일을 apt-get으로 12,000번 고쳤다")
    assert {"etc/apt/sources.list", "sources", "apt-get", "12000", "파일", "고치"} <= set(found)
    assert set(terms("파일이")) & set(terms("파일을 고치세요"))


def test_a_printed_korean_manual(manual: Path) -> None:
    parsed = load(manual, RagSettings())
    blocks = clean(parsed, one_word)
    text = "\n".join(block.text for block in blocks)
    assert "가온 정수기 설명서" not in text
    assert "이상이 있으면 곧바로 급수 밸브를 잠근 다음 상담실에 알려 주십시오." in text
    headings = {block.text: block.page for block in blocks if block.level}
    warranty = headings["2. 보증"]
    found = split(blocks, sentences)
    price = next(p for p in found if "18,500원" in p.text)
    assert (price.page, price.heading) == (warranty, "2. 보증")
    assert "탄소 필터 | 18,500원" in price.text or "탄소 필터 18,500원" in price.text
    assert not any("........" in p.text for p in found)


def test_extraction_is_what_the_page_says(manual: Path) -> None:
    seen: list[int] = []
    parsed = load(manual, RagSettings(), progress=seen.append)
    assert seen == list(range(1, len(parsed.pages) + 1))
    assert parsed.empty_pages == [] or all(not parsed.pages[n - 1].lines for n in parsed.empty_pages)
