"""Blocks to passages of about so many characters that end where sentences end and carry their page and headings."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from rag.pages import Block, Passage

Sentences = Callable[[str], list[tuple[int, int]]]
_LEADER = re.compile(r"(?:\.{4,}|(?:\. ){3,}|…{2,}|·{4,}|(?:\s-){4,})\s*[\divxlc]*\s*$")
_CONTENTS = re.compile(r"\s*(?:차례|목차|표\s?목차|그림\s?목차|(?:table of )?contents)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A sentence, a table row or a heading with its place."""

    start: int
    end: int
    page: int
    heading: str
    level: int = 0


@dataclass(slots=True)
class _Open:
    pieces: list[_Piece] = field(default_factory=list)

    def size(self) -> int:
        return self.pieces[-1].end - self.pieces[0].start if self.pieces else 0


def split(blocks: list[Block], sentences: Sentences, size: int = 500) -> list[Passage]:
    """Passages of a document.

    Args:
        blocks: in reading order.
        sentences: start and end of each sentence of a text.
        size: characters of a passage, about; a longer sentence is cut at spaces.
    """
    blocks = without_contents(blocks)
    text = "\n".join(block.text for block in blocks)
    found: list[Passage] = []
    held = _Open()
    for piece in _pieces(blocks, sentences, size):
        grown = piece.end - held.pieces[0].start if held.pieces else 0
        if held.pieces and (grown > size * 1.15 or _breaks(held, piece, size)):
            _close(held, text, found)
        held.pieces.append(piece)
    while held.pieces:
        _close(held, text, found)
    return found


def _breaks(held: _Open, piece: _Piece, size: int) -> bool:
    """Whether a passage should end before a piece: at a heading, or at a page's end once it is half full."""
    last = held.pieces[-1]
    if piece.level:
        full = held.size() >= size * 0.3 or piece.page != last.page or _depth(piece.heading.split(" > ")[-1]) == 1
        return full and any(not p.level for p in held.pieces)
    return piece.page != last.page and held.size() >= size * 0.5


def _close(held: _Open, text: str, found: list[Passage]) -> None:
    pieces, held.pieces = held.pieces, []
    if any(not piece.level for piece in pieces):
        while pieces[-1].level:  # a heading opens what follows it, it does not end what came before
            held.pieces.insert(0, pieces.pop())
    if not pieces:
        return
    sizes: dict[int, int] = {}
    for piece in pieces:
        sizes[piece.page] = sizes.get(piece.page, 0) + piece.end - piece.start
    first, last = pieces[0], pieces[-1]
    body = next((p for p in pieces if not p.level), first)
    found.append(
        Passage(
            text[first.start : last.end],
            max(sizes, key=lambda page: sizes[page]),
            last.page,
            body.heading,
            first.start,
            last.end,
        )
    )


def _pieces(blocks: list[Block], sentences: Sentences, size: int) -> list[_Piece]:
    pieces: list[_Piece] = []
    path: list[tuple[int, str]] = []
    offset = 0
    for block in blocks:
        if block.level:
            path = [*(above for above in path if _is_above(above, block)), (block.level, block.text)]
        heading = " > ".join(title for _, title in path)
        if block.level:
            spans = [(0, len(block.text))]
        elif block.kind == "table":
            spans = _rows(block.text)
        else:
            spans = sentences(block.text)
        for begin, end in (cut for span in spans for cut in _cut(block.text, *span, size)):
            page = max((page for at, page in block.turns if at <= begin), default=block.page)
            pieces.append(_Piece(offset + begin, offset + end, page, heading, block.level))
        offset += len(block.text) + 1
    return pieces


def _is_above(heading: tuple[int, str], block: Block) -> bool:
    """Whether a heading still holds below a new one; section numbers know better than type sizes."""
    depths = _depth(heading[1]), _depth(block.text)
    return depths[0] < depths[1] if depths[0] and depths[1] else heading[0] < block.level


def _depth(title: str) -> int:
    """1 for "3. …", 2 for "3.1 …"; 0 for a title without a number."""
    found = re.match(r"(\d+(?:\.\d+)*)\.?\s", title)
    return found[1].count(".") + 1 if found else 0


def _rows(text: str) -> list[tuple[int, int]]:
    spans, at = [], 0
    for row in text.split("\n"):
        if row.strip():
            spans.append((at, at + len(row)))
        at += len(row) + 1
    return spans


def _cut(text: str, begin: int, end: int, size: int) -> list[tuple[int, int]]:
    """A span in parts of at most `size` characters, cut at a space or line end where there is one."""
    parts = []
    while end - begin > size:
        at = max(text.rfind(" ", begin + size // 2, begin + size), text.rfind("\n", begin + size // 2, begin + size))
        at = at if at > 0 else begin + size
        parts.append((begin, at))
        begin = at
    return [*parts, (begin, end)] if end > begin else parts


def without_contents(blocks: list[Block]) -> list[Block]:
    """Blocks without contents pages: lines that lead by dots to a page number, and the entries under "차례".

    A contents page names every topic and answers nothing, so it would win searches that it cannot serve.
    """
    last = {_entry(block.text): index for index, block in enumerate(blocks) if block.text}
    kept: list[Block] = []
    inside = False
    for index, block in enumerate(blocks):
        if _CONTENTS.fullmatch(block.text):
            inside = True
            continue
        lines = block.text.split("\n")
        if sum(1 for line in lines if _LEADER.search(line)) * 2 > len(lines):
            continue
        if inside:
            # An entry comes again where its section begins, or ends with a page number.
            if last[_entry(block.text)] > index or re.search(r"\s\d+$", block.text):
                continue
            inside = not _is_prose(block)
        kept.append(block)
    return kept


def _entry(text: str) -> str:
    """A title without its number, leader dots and page, to tell an entry and its section as the same."""
    return re.sub(r"\W", "", re.sub(r"^제?\s?[\d.]+\s?[장절편]?\.?\s|[\s.·…-]+\d*$", "", text)).lower()


def _is_prose(block: Block) -> bool:
    return not block.level and len(block.text) > 60 and re.search(r"[다요]\.", block.text) is not None
