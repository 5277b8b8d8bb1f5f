"""The shapes that a document takes on its way: raw pages of lines, cleaned blocks, passages."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Line:
    """One line as a page shows it. Box in points from the page's lower left corner; `size` is the font's, in points."""

    text: str
    x0: float
    x1: float
    y0: float
    y1: float
    size: float
    bold: bool = False


@dataclass(slots=True)
class RawPage:
    """What a reader found on one page: lines with places (PDF), or ready blocks (every other format)."""

    number: int
    width: float = 0
    height: float = 0
    lines: list[Line] = field(default_factory=list)
    blocks: list["Block"] = field(default_factory=list)
    ocr: bool = False

    @property
    def empty(self) -> bool:
        return not self.lines and not self.blocks


@dataclass(slots=True)
class Block:
    """A paragraph, a table or a heading.

    Attributes:
        text: mended text; a table has one row a line, cells parted by ` | `.
        page: the 1-based page on which it begins.
        level: 0 for text, 1… for a heading of that level.
        turns: offset in `text` and number of every further page that it runs into.
    """

    text: str
    page: int
    level: int = 0
    kind: str = "text"
    turns: list[tuple[int, int]] = field(default_factory=list)


@dataclass(slots=True)
class Outline:
    """An entry of a PDF's own contents: title, level (1…) and 1-based page."""

    title: str
    level: int
    page: int


@dataclass(slots=True)
class Parsed:
    """A whole document as a reader gave it."""

    title: str = ""
    pages: list[RawPage] = field(default_factory=list)
    outline: list[Outline] = field(default_factory=list)

    @property
    def empty_pages(self) -> list[int]:
        return [page.number for page in self.pages if page.empty]


@dataclass(slots=True)
class Passage:
    """A piece of a document that is found and cited.

    Attributes:
        page: the 1-based page that holds most of it; `last_page` is where it ends.
        heading: the headings above it, from the widest, parted by ` > `.
        start: offset of its first character in the document's mended text; `end` is one after its last.
    """

    text: str
    page: int
    last_page: int
    heading: str
    start: int
    end: int
