"""Raw pages to blocks: headers and footers dropped, broken lines and hyphenation mended, headings and tables found.

Pure functions: whether two Korean pieces of a broken line are one word is asked of `glue`, which the caller gives.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable

from rag.pages import Block, Line, Parsed, RawPage

Glue = Callable[[str, str], bool]
_EDGE = 0.12
_LARGE = 1.12  # of the body's size: a heading
_PAGE_NUMBER = re.compile(r"[-–—\s]*#(\s*/\s*#)?[-–—\s]*(쪽|페이지)?")
_SENTENCE_END = re.compile(r"[.!?。…:;」』\")\]]\s*$")
_ITEM = re.compile(r"\s*(?:[-•●○◦▪■□▶※*·–]\s|\(?\d{1,3}[.)]\s|[가-하][.)]\s|\(?[a-zA-Z][.)]\s|[①-⑳㉠-㉭])")
_NUMBERED = re.compile(
    r"\s*(?:제\s?\d+\s?[편장절관]\s|제\d+조(?:의\d+)?\s?[(\[]|\d+(?:\.\d+)+\.?\s|\d+장\s|부록\s|[IVX]+\.\s)"
)
_CONTROL = {c: None for c in range(0x20) if c not in (0x09, 0x0A)} | dict.fromkeys(
    [0x7F, 0xAD, *range(0x200B, 0x2010), *range(0x202A, 0x202F), *range(0x2060, 0x2070), 0xFEFF, 0xFFFE, 0xFFFD]
)


def tidy(text: str) -> str:
    """NFC and ordinary spaces; no control or zero-width characters, no ligatures, no full-width ASCII."""
    text = unicodedata.normalize("NFC", text).translate(_CONTROL)
    text = re.sub(r"[ﬀ-ﬆ\uff01-\uff5e]", lambda found: unicodedata.normalize("NFKC", found[0]), text)
    return re.sub(r"[^\S\n]+", " ", text).strip()


def clean(parsed: Parsed, glue: Glue) -> list[Block]:
    """The blocks of a document in reading order.

    Args:
        glue: whether two Hangul pieces, the end of a line and the start of the next, are one word.
    """
    if not any(page.lines for page in parsed.pages):
        blocks = [block for page in parsed.pages for block in page.blocks]
        for block in blocks:
            block.text = "\n".join(tidy(line) for line in block.text.split("\n")).strip()
        return [block for block in blocks if block.text]
    body = _body_size(parsed.pages)
    running = _running_lines(parsed.pages, body)
    levels = _levels(parsed, body)
    words = _vocabulary(parsed.pages)
    titles = {(entry.page, _key(entry.title)): entry.level for entry in parsed.outline}
    mender, found = Mender(glue, words), list[Block]()
    for page in parsed.pages:
        kept = [line for line in page.lines if not _is_running(line, page, running, body)]
        made = _page_blocks(kept, page.number, mender, levels, titles, body)
        if found and made and _runs_on(found[-1], made[0]):
            _append(found[-1], made.pop(0), mender)
        found.extend(made)
    return found


def _key(text: str) -> str:
    return re.sub(r"\W", "", text).lower()


def _masked(text: str) -> str:
    return re.sub(r"\d+|\b[ivxlc]+\b", "#", text.strip().lower())


def _running_key(line: Line, page: RawPage, body: float) -> str | None:
    """What makes an edge line the same on every page; None away from the edge.

    A large line is a title, number and all.
    """
    if not (line.y0 > page.height * (1 - _EDGE) or line.y1 < page.height * _EDGE):
        return None
    masked = _masked(line.text)
    return line.text.strip() if line.size >= body * _LARGE and not _PAGE_NUMBER.fullmatch(masked) else masked


def _running_lines(pages: list[RawPage], body: float) -> set[str]:
    """Edge lines that stand on three pages or more, at least a tenth of all: headers, footers, page numbers."""
    counts = Counter(
        key for page in pages for key in {_running_key(line, page, body) for line in page.lines} if key is not None
    )
    least = max(3, len(pages) // 10)
    return {key for key, count in counts.items() if count >= least}


def _is_running(line: Line, page: RawPage, running: set[str], body: float) -> bool:
    key = _running_key(line, page, body)
    return key is not None and (key in running or _PAGE_NUMBER.fullmatch(key) is not None)


def _body_size(pages: list[RawPage]) -> float:
    counts: Counter[float] = Counter()
    for page in pages:
        for line in page.lines:
            counts[round(line.size, 1)] += len(line.text)
    return counts.most_common(1)[0][0] if counts else 0.0


def _levels(parsed: Parsed, body: float) -> list[float]:
    """Sizes of headings, the largest first."""
    sizes = {round(line.size) for page in parsed.pages for line in page.lines if line.size >= body * _LARGE}
    return sorted(sizes, reverse=True)


def _vocabulary(pages: list[RawPage]) -> Counter[str]:
    """How often each word stands inside a line, its first and last left out: they may be halves."""
    return Counter(word for page in pages for line in page.lines for word in line.text.split()[1:-1])


class Mender:
    """Joins the lines of one paragraph."""

    def __init__(self, glue: Glue, words: Counter[str]) -> None:
        self._glue, self._words = glue, words

    def join(self, left: str, right: str) -> str:
        """Two lines as one: a hyphen at a line's end undone, a word broken in two made whole."""
        right = right.lstrip()
        if left.endswith("\x02"):
            return left[:-1] + right if right[:1].islower() else left[:-1] + "-" + right
        if left.endswith("\xad"):
            return left[:-1] + right
        if left.endswith(" ") or not left or not right:
            return left.rstrip() + " " + right
        return left + ("" if self._one_word(left, right) else " ") + right

    def _one_word(self, left: str, right: str) -> bool:
        if left[-1:] in "/_" or (left.endswith("-") and right[:1].isalnum()):
            return True
        if not (_hangul(right[0]) and (_hangul(left[-1]) or (left[-1].isascii() and left[-1].isalnum()))):
            return False
        tail, head = left.split()[-1], right.split()[0]
        whole = self._words[tail + head]
        apart = min(self._words[tail], self._words[head])
        if whole != apart:
            return whole > apart
        return self._glue(" ".join(left.split()[-3:]), " ".join(right.split()[:3]))


def _hangul(char: str) -> bool:
    return "가" <= char <= "힣"


def _page_blocks(
    lines: list[Line], number: int, mender: Mender, levels: list[float], titles: dict[tuple[int, str], int], body: float
) -> list[Block]:
    blocks: list[Block] = []
    rows = _rows(lines, max((line.x1 for line in lines), default=0.0))
    for index, row in enumerate(rows):
        if len(row) > 1:
            text = " | ".join(tidy(_join(cell, mender)) for cell in row)
            if blocks and blocks[-1].kind == "table":
                blocks[-1].text += "\n" + text
            else:
                blocks.append(Block(text, number, kind="table"))
            continue
        text = tidy(_join(row[0], mender))
        before_table = index + 1 < len(rows) and len(rows[index + 1]) > 1
        level = 0 if before_table else _level(row[0], text, levels, titles.get((number, _key(text))), body)
        if text:
            blocks.append(Block(text, number, level))
    return blocks


def _join(cell: list[Line], mender: Mender) -> str:
    text = cell[0].text
    for line in cell[1:]:
        text = mender.join(text, line.text)
    return text.replace("\x02", "-")


def _level(cell: list[Line], text: str, levels: list[float], titled: int | None, body: float) -> int:
    """The level of a heading, or 0."""
    if titled:
        return titled
    if len(text) > 100 or len(cell) > 3 or not re.search(r"\w", text):
        return 0
    size = cell[0].size
    if size >= body * _LARGE and not text.endswith(("다.", "요.")):
        return min(6, 1 + levels.index(round(size))) if round(size) in levels else 6
    numbered = _NUMBERED.match(text) is not None
    if cell[0].bold and len(text) <= 60 and not _SENTENCE_END.search(text.rstrip(")")) and len(cell) == 1:
        return min(6, 1 + len(levels) + (0 if numbered else 1))
    return min(6, 2 + len(levels)) if re.match(r"제\d+조(?:의\d+)?\s?[(\[]", text) else 0


def _rows(lines: list[Line], right: float) -> list[list[list[Line]]]:
    """Lines to rows of cells; a paragraph is a row of one cell.

    A line that lies beside the row before it is its next cell; one that follows below at the same left edge runs on.
    """
    rows: list[list[list[Line]]] = []
    for line in lines:
        _gather_cell(rows, line)
        row = rows[-1] if rows else None
        if row is None:
            rows.append([[line]])
            continue
        cell = row[-1]
        top, bottom = max(x.y1 for c in row for x in c), min(x.y0 for c in row for x in c)
        beside = line.y1 > bottom + 2 and line.y0 < top - 2 and line.x0 > cell[0].x1 - 1
        if beside and top - bottom < 8 * (line.y1 - line.y0):
            row.append([line])
        elif _continues(cell, line, right if len(row) == 1 else max(x.x1 for x in cell), len(row) > 1):
            cell.append(line)
        else:
            rows.append([[line]])
    return rows


def _gather_cell(rows: list[list[list[Line]]], line: Line) -> None:
    """Make one cell of the last two or three lines when a line beside the first of them shows that they are a cell."""
    for back in (2, 3):
        if len(rows) < back:
            return
        first, *below = rows[-back:]
        column = [row[0] for row in below]
        narrow = all(len(row) == 1 for row in below) and len(first) == 1
        same = all(len(cell) == 1 and abs(cell[0].x0 - first[0][0].x0) < 4 for cell in column)
        if narrow and same and _beside(first[0][-1], line) and line.x0 > max(cell[0].x1 for cell in column):
            first[0].extend(cell[0] for cell in column)
            del rows[-back + 1 :]
            return


def _beside(left: Line, right: Line) -> bool:
    """Whether two lines share a row and the second is to the right."""
    return right.y1 > left.y0 + 2 and right.y0 < left.y1 - 2 and right.x0 > left.x1


def _continues(cell: list[Line], line: Line, right: float, in_table: bool) -> bool:
    """Whether a line belongs to the paragraph before it."""
    last = cell[-1]
    height = last.y1 - last.y0
    gap = last.y0 - line.y1
    if line.y1 > last.y1 or gap > 0.9 * height or abs(line.size - last.size) > 0.6 or line.bold != last.bold:
        return False
    if in_table:
        return abs(line.x0 - cell[0].x0) < 4 or (line.x0 < last.x1 and line.x1 > last.x0)
    if _ITEM.match(line.text) or _NUMBERED.match(line.text):
        return False
    first = line.text.split()[0]
    room = right - last.x1
    width = (line.x1 - line.x0) / max(1, len(line.text)) * (len(first) + 1)
    return room < max(width, 1.5 * height) and line.x0 - cell[0].x0 < 4 * height


def _runs_on(last: Block, first: Block) -> bool:
    """Whether a page's first block continues the paragraph that the page before left open."""
    return (
        last.kind == first.kind == "text"
        and not last.level
        and not first.level
        and not _SENTENCE_END.search(last.text)
        and not _ITEM.match(first.text)
        and not _NUMBERED.match(first.text)
        and len(last.text) > 30
    )


def _append(block: Block, more: Block, mender: Mender) -> None:
    joined = mender.join(block.text, more.text)
    block.turns.append((len(joined) - len(more.text), more.page))
    block.text = joined
