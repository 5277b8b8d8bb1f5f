"""Search: dense, BM25 over morphemes, and both by reciprocal-rank fusion; LangChain's form of it is `rag.retriever`."""

# ruff: noqa: S608 - the names of tables are ours, and every value is bound

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time
from typing import Any, Literal

from personas.home import Home
from rag.embed import make_embedder
from rag.ingest import check_embedder
from rag.pairs import pair_scores
from rag.rows import Collection, Stored
from rag.settings import RagSettings
from rag.store import Store, embedded_text
from rag.vectors import VectorIndex
from rag.words import search as word_search
from rag.words import table_of

Method = Literal["hybrid", "dense", "bm25"]
Rewrite = Callable[[str], str]
Rerank = Callable[[str, list[str]], Sequence[float]]
# The constant of Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet …", SIGIR 2009.
# They take 60; on `bench/rag` 20 does as well by MRR and better by recall@5, with three rankings.
_RRF = 20
_DEPTH = 50


# Days whose moments a computer's clock can tell, wherever it stands.
_FIRST, _LAST = date(1970, 1, 2), date(9998, 12, 31)


def _moment(day: date, at: time) -> float:
    """A local time of a day in seconds since 1970; "until 9999-12-31" means no end."""
    return datetime.combine(min(max(day, _FIRST), _LAST), at).timestamp()


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents count: by name (with `*`), and by the date of the file."""

    documents: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None

    @property
    def empty(self) -> bool:
        return not self.documents and self.since is None and self.until is None


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found.

    Attributes:
        score: the method's own: cosine (dense), BM25, fused rank score (hybrid), or the reranker's.
        dense: its cosine, and its rank among the nearest; None if it is not among them.
        bm25: the same for words.
    """

    passage: Stored
    score: float
    dense: float | None = None
    bm25: float | None = None
    dense_rank: int | None = None
    bm25_rank: int | None = None


@dataclass(slots=True)
class Found:
    """Hits with what a judgement of relevance needs: the words asked for and both rankings, best first."""

    query: str
    terms: list[str]
    hits: list[Hit]
    dense: list[tuple[int, float]] = field(default_factory=list)
    bm25: list[tuple[int, float]] = field(default_factory=list)


class Searcher:
    """Searches the collections of one state folder."""

    def __init__(self, home: Home, settings: RagSettings | None = None) -> None:
        self.settings = settings or RagSettings()
        self.store = Store.open(home)
        self.index = VectorIndex(home, self.settings, self.store)

    def close(self) -> None:
        self.store.close()

    def search(
        self, query: str, collection: str, k: int = 10, method: Method = "hybrid", only: Filter | None = None,
        rerank: Rerank | None = None,
    ) -> Found:  # fmt: skip
        """The best `k` passages for a question.

        Raises:
            CollectionError: no such collection, or another embedder is set.
        """
        from rag.terms import terms

        found = self.store.collection(collection)
        allowed = self._documents(found, only)
        depth = max(k, _DEPTH)
        asked = terms(query)
        near: list[tuple[int, float]] = []
        if method != "bm25":
            check_embedder(found, self.settings)
            vector = make_embedder(found.embedder, self.settings).queries([query])[0]
            near = self.index.search(found, vector, depth, allowed)
        worded = self.by_words(found, asked, depth, allowed) if method != "dense" else []
        ranked = fuse(near, worded, self._by_pairs(query, near, worded)) if method == "hybrid" else near or worded
        hits = self._hits(ranked[: depth if rerank else k + 10], near, worded)
        if rerank and hits:
            scores = rerank(query, [hit.passage.text for hit in hits])
            hits = [_scored(hit, float(score)) for hit, score in zip(hits, scores, strict=True)]
            hits.sort(key=lambda hit: -hit.score)
        return Found(query, asked, hits[:k], near, worded)

    def by_words(
        self, collection: Collection, asked: list[str], k: int, documents: list[int] | None = None
    ) -> list[tuple[int, float]]:
        """Ids of passages and their BM25 scores (k1 1.2, b 0.75), best first."""
        return word_search(self.store.db, table_of(collection.id), asked, k, documents)

    def _by_pairs(
        self, query: str, near: list[tuple[int, float]], worded: list[tuple[int, float]]
    ) -> list[tuple[int, float]]:
        """What the other two rank highest, ranked by pairs of letters."""
        pool = self.store.passages(list(dict.fromkeys(number for number, _ in [*near[:_DEPTH], *worded[:_DEPTH]])))
        scores = pair_scores(query, [embedded_text(p.heading, p.text) for p in pool.values()])
        return sorted(((n, s) for n, s in zip(pool, scores, strict=True) if s > 0), key=lambda item: -item[1])

    def _documents(self, collection: Collection, only: Filter | None) -> list[int] | None:
        """Ids of the documents that a filter admits; None for all."""
        if only is None or only.empty:
            return None
        clauses: list[str] = ["collection_id = ?"]
        values: list[object] = [collection.id]
        if only.documents:
            clauses.append("(" + " OR ".join("name GLOB ?" for _ in only.documents) + ")")
            values += only.documents
        if only.since:
            clauses.append("modified >= ?")
            values.append(_moment(only.since, time.min))
        if only.until:
            clauses.append("modified <= ?")
            values.append(_moment(only.until, time.max))
        return [
            row[0] for row in self.store.db.execute(f"SELECT id FROM documents WHERE {' AND '.join(clauses)}", values)
        ]

    def _hits(
        self, ranked: list[tuple[int, float]], near: list[tuple[int, float]], worded: list[tuple[int, float]]
    ) -> list[Hit]:
        passages = self.store.passages([number for number, _ in ranked])
        dense = {number: (score, rank) for rank, (number, score) in enumerate(near, 1)}
        bm25 = {number: (score, rank) for rank, (number, score) in enumerate(worded, 1)}
        return [
            Hit(passages[n], score, *(_both(dense, n)[0], _both(bm25, n)[0], _both(dense, n)[1], _both(bm25, n)[1]))
            for n, score in ranked
            if n in passages
        ]


def _both(found: dict[int, tuple[float, int]], number: int) -> tuple[float | None, int | None]:
    return found.get(number, (None, None))


def _scored(hit: Hit, score: float) -> Hit:
    return Hit(hit.passage, score, hit.dense, hit.bm25, hit.dense_rank, hit.bm25_rank)


def fuse(*rankings: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Reciprocal-rank fusion: the sum of 1 / (20 + rank) over the rankings."""
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (number, _) in enumerate(ranking, 1):
            scores[number] = scores.get(number, 0.0) + 1 / (_RRF + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


def cross_encoder(spec: str) -> Rerank:
    """A reranker from a sentence-transformers cross-encoder folder or hub id."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(spec)
    return lambda query, texts: [float(score) for score in model.predict([(query, text) for text in texts])]


def as_row(hit: Hit) -> dict[str, Any]:
    """A hit in JSON's form; where its file lies on this machine is left out."""
    passage = hit.passage
    row = {"document": passage.document, "page": passage.page, "score": round(hit.score, 6)}
    row |= {"heading": passage.heading, "text": passage.text, "last_page": passage.last_page, "id": passage.id}
    return row | {"start": passage.start, "end": passage.end, "cosine": hit.dense, "bm25": hit.bm25}
