"""What the store holds, as plain rows."""

from dataclasses import dataclass

from rag.pages import Passage


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents with one embedder."""

    id: int
    name: str
    owner: str
    embedder: str
    generation: int
    version: int
    chunk_chars: int
    created: float

    @property
    def chroma(self) -> str:
        """The name of its Chroma collection."""
        return f"gamyeon-{self.id}-{self.generation}"


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A document as it is stored; `waiting` passages have no vector yet."""

    id: int
    source: str
    name: str
    sha256: str
    size: int
    modified: float
    pages: int
    empty_pages: list[int]
    ocr: bool
    added: float
    passages: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A passage with its place."""

    id: int
    document_id: int
    document: str
    source: str
    ordinal: int
    page: int
    last_page: int
    heading: str
    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True)
class NewDocument:
    """What is written for one document."""

    source: str
    name: str
    sha256: str
    size: int
    modified: float
    pages: int
    empty_pages: list[int]
    ocr: bool
    passages: list[Passage]
    terms: list[list[str]]
