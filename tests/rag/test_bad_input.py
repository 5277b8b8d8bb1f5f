"""Every bad file has its own message, and the rest of its batch goes in."""

import json
import os
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pytest
from fixtures_rag import pdf_bomb, tiny_pdf

from personas.home import Home
from rag.errors import CollectionError, FileError, StoreError
from rag.ingest import Report, ingest
from rag.manage import document_rows, statistics
from rag.pages import Passage
from rag.rows import NewDocument
from rag.search import Searcher
from rag.settings import RagSettings
from rag.store import Store


def bring(home: Home, *paths: Path | str, **settings: object) -> Report:
    return ingest([str(p) for p in paths], "docs", home, RagSettings(**settings), vectors=False)  # type: ignore[arg-type]


def names(home: Home) -> list[str]:
    return [row["document"] for row in document_rows(Store.open(home), "docs")]


def encrypted(path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    path.write_bytes(tiny_pdf())
    writer = PdfWriter(clone_from=PdfReader(path))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(path)


def blank_pages(path: Path, count: int = 3) -> None:
    document = pypdfium2.PdfDocument.new()
    for _ in range(count):
        document.new_page(595, 842)
    document.save(path)
    document.close()


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<x/>")
        archive.writestr("word/document.xml", b"0" * (300 * 2**20))


def lying_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "not a Word file")


BAD: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "encrypted": ("locked.pdf", encrypted, "encrypted"),
    "truncated": ("cut.pdf", lambda p: p.write_bytes(tiny_pdf()[:150]), "damaged"),
    "empty": ("empty.pdf", lambda p: p.write_bytes(b""), "empty"),
    "scanned": ("scan.pdf", blank_pages, "no_text"),
    "wrong_extension": ("letter.docx", lambda p: p.write_bytes(tiny_pdf()), "wrong_type"),
    "non_pdf": ("page.pdf", lambda p: p.write_text("<html>no</html>"), "wrong_type"),
    "binary_text": ("noise.txt", lambda p: p.write_bytes(bytes(range(256)) * 9), "not_text"),
    "old_office": ("old.docx", lambda p: p.write_bytes(bytes.fromhex("d0cf11e0a1b11ae1") + b"\0" * 600), "old_office"),
    "zip_bomb": ("bomb.docx", zip_bomb, "bomb"),
    "no_word_inside": ("fake.docx", lying_zip, "damaged"),
    "no_hangul_inside": ("fake.hwpx", lying_zip, "damaged"),
    "blank_text": ("blank.txt", lambda p: p.write_text(" \n\n "), "empty_text"),
    "unsupported": ("song.mp3", lambda p: p.write_bytes(b"ID3"), "unsupported"),
    "missing": ("nothing.pdf", lambda p: None, "missing"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_and_the_rest_goes_in(case: str, home: Home, tmp_path: Path) -> None:
    name, make, code = BAD[case]
    bad, good = tmp_path / name, tmp_path / "good.txt"
    make(bad)
    good.write_text("보증 기간은 2년입니다.")
    report = bring(home, bad, good)
    assert report.stored == ["good.txt"]
    (error,) = report.refused
    assert isinstance(error, FileError)
    assert (error.code, str(bad) in error.message, bool(error.hint)) == (code, True, True)
    assert names(home) == ["good.txt"]


def test_every_message_is_its_own(home: Home, tmp_path: Path) -> None:
    messages = {}
    for case, (name, make, code) in BAD.items():
        path = tmp_path / case / name
        path.parent.mkdir()
        make(path)
        (error,) = bring(home, path).refused
        messages.setdefault(code, error.message.replace(str(path), "").split("(")[0])
    assert len(set(messages.values())) == len(messages)


def test_a_pdf_that_unpacks_to_gigabytes_dies_alone(home: Home, tmp_path: Path) -> None:
    (tmp_path / "bomb.pdf").write_bytes(pdf_bomb(1500))
    (tmp_path / "good.txt").write_text("보증 기간은 2년입니다.")
    report = bring(home, tmp_path, parse_memory_mib=512, parse_seconds=20)
    assert report.stored == ["good.txt"]
    assert len(report.refused) == 1


def test_a_reader_that_takes_too_long_is_ended(home: Home, manual: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rag import load

    monkeypatch.setattr(load.sys, "executable", "/bin/yes")
    report = ingest([str(manual)], "docs", home, RagSettings(parse_seconds=1), vectors=False)
    assert isinstance(report.refused[0], FileError)
    assert report.refused[0].code in ("timeout", "crashed")


def test_too_many_pages(home: Home, tmp_path: Path) -> None:
    blank_pages(tmp_path / "long.pdf", 60)
    (error,) = bring(home, tmp_path, max_pages=50).refused
    assert isinstance(error, FileError)
    assert error.code == "too_many_pages"
    assert "60" in error.message


def test_ten_thousand_pages_are_read(home: Home, tmp_path: Path) -> None:
    document = pypdfium2.PdfDocument(tiny_pdf())
    many = pypdfium2.PdfDocument.new()
    for _ in range(20):
        many.import_pages(document, [0] * 500)
    many.save(tmp_path / "ten.pdf")
    many.close()
    document.close()
    report = bring(home, tmp_path)
    assert report.stored == ["ten.pdf"]
    assert document_rows(Store.open(home), "docs")[0]["pages"] == 10_000


def test_links_out_of_a_folder_are_left_out(home: Home, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("비밀입니다.")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "good.txt").write_text("보증 기간은 2년입니다.")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "inside.txt").symlink_to(folder / "good.txt")
    report = bring(home, folder)
    assert names(home) == ["good.txt"]
    assert [e.code for e in report.refused if isinstance(e, FileError)] == ["outside"]


def test_dots_in_a_path_mean_the_file_itself(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "good.txt").write_text("보증 기간은 2년입니다.")
    bring(home, tmp_path / "good.txt")
    report = bring(home, f"{tmp_path}/a/../good.txt")
    assert (report.unchanged, names(home)) == (["good.txt"], ["good.txt"])


def test_decomposed_hangul_names_are_shown_composed(home: Home, tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "설명서.txt")).write_text("보증 기간은 2년입니다.")
    bring(home, tmp_path)
    assert names(home) == ["설명서.txt"]
    searcher = Searcher(home)
    assert searcher.search("보증", "docs", method="bm25").hits[0].passage.document == "설명서.txt"
    assert bring(home, tmp_path).unchanged == ["설명서.txt"]


def test_an_unreadable_file(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("보증")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root reads everything")
    (error,) = bring(home, path).refused
    assert isinstance(error, FileError)
    assert error.code == "permission"


def test_a_damaged_replacement_keeps_what_was_there(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "a.pdf"
    path.write_bytes(tiny_pdf())
    bring(home, path)
    path.write_bytes(tiny_pdf()[:120])
    assert bring(home, path).refused
    assert names(home) == ["a.pdf"]


def test_a_full_disk_loses_nothing(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("보증 기간은 2년입니다.")
    bring(home, tmp_path)
    store = Store.open(home)
    pages = store.db.execute("PRAGMA page_count").fetchone()[0]
    store.db.execute(f"PRAGMA max_page_count = {pages + 2}")
    collection = store.collection("docs")
    big = NewDocument("/b.txt", "b.txt", "x", 1, 0.0, 1, [], False, [Passage("가" * 9000, 1, 1, "", i, i + 1) for i in range(99)], [["가"]] * 99)  # fmt: skip  # noqa: E501
    with pytest.raises(StoreError, match="full"):
        store.put(collection, big)
    assert names(home) == ["a.txt"]
    assert statistics(home, "docs", RagSettings())["words_indexed"] == 1
    store.db.execute("PRAGMA max_page_count = 1000000")
    store.put(collection, big)
    assert names(home) == ["a.txt", "b.txt"]


def test_without_a_chroma_server_the_words_stay(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("보증 기간은 2년입니다.")
    away = RagSettings(chroma_url="http://127.0.0.1:9")
    with pytest.raises(StoreError, match="no Chroma server"):
        ingest([str(tmp_path)], "docs", home, away)
    found = Searcher(home, away).search("보증 기간", "docs", method="bm25")
    assert found.hits[0].passage.text == "보증 기간은 2년입니다."
    assert ingest([str(tmp_path)], "docs", home, RagSettings()).embedded == 1


def test_a_name_that_cannot_be_one(home: Home, tmp_path: Path) -> None:
    for name in ("../x", "A B", "", "a/b"):
        with pytest.raises(CollectionError):
            ingest([str(tmp_path)], name, home, RagSettings())


def test_another_embedder_is_refused_with_the_command_that_reindexes(home: Home, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("보증 기간은 2년입니다.")
    bring(home, tmp_path)
    with pytest.raises(CollectionError) as caught:
        bring(home, tmp_path, embedder="openai:other")
    assert caught.value.hint == "rag reindex --collection docs"


def test_messages_fit_the_command_line(home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from rag.cli import app

    (tmp_path / "empty.pdf").write_bytes(b"")
    (tmp_path / "good.txt").write_text("보증 기간은 2년입니다.")
    result = CliRunner().invoke(app, ["ingest", str(tmp_path), "-c", "docs", "--no-vectors"])
    assert result.exit_code == 1
    assert "empty (0 bytes)" in result.output
    found = CliRunner().invoke(app, ["search", "보증", "-c", "docs", "--method", "bm25", "--json"])
    hit = json.loads(found.output.splitlines()[0])
    assert (hit["document"], hit["page"]) == ("good.txt", 1)
