"""Reading and ingest of documents: extraction against pypdf, and the times of a 150-page manual.

    python bench/rag/build.py --scale && python bench/documents.py

Prints JSON lines. The manual is the first 150 pages of LibreOffice Writer's Korean help, printed to PDF. Search at
10,000 and 100,000 passages is `bench/rag_scale.py`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pypdf
import pypdfium2
from common import emit, machine

from personas.home import Home
from rag.readers import read_pdf
from rag.store import Store
from rag.vectors import folder_size

BUILD = Path(__file__).parents[1] / "build" / "rag"
SOURCE = BUILD / "scale" / "libreoffice-swriter.pdf"
PAGES = 150
REPEATS = 3


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def median_seconds(work: Callable[[], object]) -> float:
    return statistics.median(seconds(work) for _ in range(REPEATS))


def first_pages(source: Path, count: int, target: Path) -> Path:
    """A PDF with the first pages of another."""
    whole, part = pypdfium2.PdfDocument(source), pypdfium2.PdfDocument.new()
    part.import_pages(whole, list(range(min(count, len(whole)))))
    part.save(target)
    return target


def extraction(pdf: Path) -> None:
    """Pages a second: pypdf's text, pdfium's bare text, and ours with lines, boxes and fonts."""
    with pypdfium2.PdfDocument(pdf) as document:
        count = len(document)

    def bare() -> None:
        with pypdfium2.PdfDocument(pdf) as document:
            for page in document:
                page.get_textpage().get_text_bounded()

    ours = median_seconds(lambda: list(read_pdf(pdf, 20_000, False)))
    theirs = median_seconds(lambda: [page.extract_text() for page in pypdf.PdfReader(pdf).pages])
    emit(
        bench="extraction",
        pdf=pdf.name,
        pages=count,
        rag_pages_per_second=round(count / ours, 1),
        pdfium_bare_pages_per_second=round(count / median_seconds(bare), 1),
        pypdf_pages_per_second=round(count / theirs, 1),
        ratio=round(theirs / ours, 2),
    )


def rag(home: Path, *arguments: str) -> float:
    """Seconds of one `rag` command, its start included."""
    command = [sys.executable, "-m", "rag.cli", *arguments]
    environment = {**os.environ, "GAMYEON_HOME": str(home)}
    return seconds(lambda: subprocess.run(command, env=environment, check=True, capture_output=True))


def manual(folder: Path) -> None:
    """Ingest of the manual: words, then vectors, then unchanged."""
    pdf = first_pages(SOURCE, PAGES, folder / "manual.pdf")
    home = folder / "home"
    words = rag(home, "ingest", str(pdf), "-c", "manual", "--no-vectors")
    vectors = rag(home, "ingest", str(pdf), "-c", "manual")
    unchanged = rag(home, "ingest", str(pdf), "-c", "manual")
    store = Store.open(Home(home))
    rows = store.documents(store.collection("manual"))
    store.close()
    emit(
        bench="ingest",
        pages=rows[0].pages,
        passages=rows[0].passages,
        words_seconds=round(words, 2),
        vectors_too_seconds=round(words + vectors, 2),
        unchanged_seconds=round(unchanged, 2),
        stored_bytes=folder_size(home),
    )


def main() -> None:
    extraction(BUILD / "pdf" / "debian-faq.pdf")
    extraction(SOURCE)
    with tempfile.TemporaryDirectory() as folder:
        manual(Path(folder))
    emit(bench="machine", **machine())


if __name__ == "__main__":
    main()
