"""A collection as a LangChain retriever; the search is `rag.search`, which does without LangChain's import (2 s)."""

from pathlib import Path

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, PrivateAttr

from personas.home import Home
from rag.search import Filter, Found, Hit, Method, Rerank, Rewrite, Searcher, cross_encoder, fuse

__all__ = ["Filter", "Found", "GamyeonRetriever", "Hit", "Method", "Searcher", "as_document", "cross_encoder", "fuse"]


class GamyeonRetriever(BaseRetriever):
    """A collection as a LangChain retriever.

    Example:
        `GamyeonRetriever(collection="manuals", k=5).invoke("보증 기간은?")`

    Each document's metadata holds `document`, `source`, `page` (1-based), `last_page`, `heading`, `score` and `id`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    collection: str
    k: int = 10
    method: Method = "hybrid"
    only: Filter | None = None
    home: Path | None = None
    rewrite: Rewrite | None = None
    rerank: Rerank | None = None
    _searcher: Searcher | None = PrivateAttr(None)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        if self._searcher is None:
            self._searcher = Searcher(Home(self.home) if self.home else Home.from_env())
        asked = self.rewrite(query) if self.rewrite else query
        found = self._searcher.search(asked, self.collection, k or self.k, self.method, self.only, self.rerank)
        return [as_document(hit) for hit in found.hits]


def as_document(hit: Hit) -> Document:
    """A hit in LangChain's form."""
    passage = hit.passage
    return Document(
        page_content=passage.text,
        id=str(passage.id),
        metadata={
            "document": passage.document,
            "source": passage.source,
            "page": passage.page,
            "last_page": passage.last_page,
            "heading": passage.heading,
            "score": hit.score,
        },
    )
