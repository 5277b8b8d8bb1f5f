"""Readers of one file each: PDF, text, Markdown, Word and Hangul (hwpx) to raw pages, inside the child process."""

import ctypes
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, iterparse

from rag.pages import Block, Line, Outline, RawPage

_BOLD = 600
_MAX_UNZIPPED = 256 * 1024 * 1024
_MAX_RATIO = 200


class Refused(Exception):
    """A file that a reader will not read. `code` names the fault."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail)
        self.code = code


def read_pdf(path: Path, max_pages: int, ocr: bool) -> Iterator[RawPage | Outline]:
    """The pages of a PDF by pypdfium2, its outline first."""
    import pypdfium2  # type: ignore[import-untyped]
    import pypdfium2.raw as pdfium  # type: ignore[import-untyped]

    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        code = "encrypted" if pdfium.FPDF_GetLastError() == pdfium.FPDF_ERR_PASSWORD else "damaged"
        raise Refused(code, str(error)) from error
    if len(document) > max_pages:
        raise Refused("too_many_pages", str(len(document)))
    if len(document) == 0:
        raise Refused("damaged", "no pages")
    yield from _outline(document)
    for index in range(len(document)):
        try:
            page = document[index]
            found = RawPage(index + 1, page.get_width(), page.get_height(), _lines(page))
        except pypdfium2.PdfiumError as error:
            if index == 0:
                raise Refused("damaged", str(error)) from error
            found = RawPage(index + 1)
            page = None
        if ocr and page is not None and found.empty:
            found.lines, found.ocr = _recognise(page), True
        if page is not None:
            page.close()
        yield found


def _outline(document: Any) -> Iterator[Outline]:
    for item in document.get_toc():
        target = item.get_dest()
        if target is not None and target.get_index() is not None:
            yield Outline(item.get_title().strip(), item.level + 1, target.get_index() + 1)


def _lines(page: Any) -> list[Line]:
    """The lines of a page with box and font; pdfium ends each with CR LF."""
    import pypdfium2.raw as pdfium

    textpage = page.get_textpage()
    count = textpage.count_chars()
    if not count:
        return []
    # One UTF-16 unit a character index, so that a place in the text is the index for the font calls.
    buffer = (ctypes.c_ushort * (count + 1))()
    pdfium.FPDFText_GetText(textpage, 0, count, buffer)
    raw = bytes(memoryview(buffer).cast("B")[: 2 * count])
    found: list[Line] = []
    box, matrix = pdfium.FS_RECTF(), pdfium.FS_MATRIX()
    start = 0
    for unit_line in _unit_lines(raw):
        text = unit_line.decode("utf-16-le", "ignore").replace("\ufffe", "\x02")
        units = len(unit_line) // 2
        body = text.strip(" \t\xa0\0")
        if body:
            first = start + (len(text) - len(text.lstrip(" \t\xa0\0")))
            last = start + units - 1 - (len(text) - len(text.rstrip(" \t\xa0\0")))
            pdfium.FPDFText_GetLooseCharBox(textpage, first, box)
            x0, y0, y1 = box.left, box.bottom, box.top
            pdfium.FPDFText_GetLooseCharBox(textpage, last, box)
            pdfium.FPDFText_GetMatrix(textpage, first, matrix)
            scale = (matrix.c**2 + matrix.d**2) ** 0.5
            size = pdfium.FPDFText_GetFontSize(textpage, first) * (scale or 1)
            bold = pdfium.FPDFText_GetFontWeight(textpage, first) >= _BOLD
            found.append(Line(text.strip("\0\t\xa0"), x0, box.right, min(y0, box.bottom), max(y1, box.top), size, bold))
        start += units + 2
    textpage.close()
    return found


def _unit_lines(raw: bytes) -> list[bytes]:
    """Split UTF-16-LE bytes at CR LF, on unit boundaries."""
    lines, begin = [], 0
    at = raw.find(b"\r\0\n\0")
    while at >= 0:
        if at % 2 == 0:
            lines.append(raw[begin:at])
            begin = at + 4
        at = raw.find(b"\r\0\n\0", at + 1)
    return [*lines, raw[begin:]]


def _recognise(page: Any) -> list[Line]:
    """The lines that Tesseract sees on a page image, with Korean data (`tesseract-ocr-kor`)."""
    import io

    scale = 300 / 72
    image = io.BytesIO()
    page.render(scale=scale, grayscale=True).to_pil().save(image, "PNG")
    command = ["tesseract", "stdin", "stdout", "-l", "kor+eng", "--psm", "3", "tsv"]
    try:
        reply = subprocess.run(command, input=image.getvalue(), capture_output=True, check=True, timeout=120)
    except FileNotFoundError as error:
        raise Refused("no_tesseract") from error
    except subprocess.SubprocessError as error:
        raise Refused("ocr_failed", str(error)) from error
    words: dict[tuple[str, ...], list[tuple[str, float, float, float, float]]] = {}
    for row in reply.stdout.decode("utf-8", "replace").split("\n")[1:]:
        cells = row.split("\t")
        if len(cells) == 12 and cells[11].strip() and float(cells[10]) >= 30:
            left, top, width, height = (float(cell) / scale for cell in cells[6:10])
            words.setdefault(tuple(cells[2:5]), []).append((cells[11], left, top, width, height))
    tall = page.get_height()
    return [_ocr_line(line, tall) for line in words.values()]


def _ocr_line(words: list[tuple[str, float, float, float, float]], tall: float) -> Line:
    top = min(word[2] for word in words)
    bottom = max(word[2] + word[4] for word in words)
    last = words[-1]
    text = " ".join(word[0] for word in words)
    return Line(text, words[0][1], last[1] + last[3], tall - bottom, tall - top, round(bottom - top))


def read_text(path: Path) -> Iterator[RawPage]:
    """Plain text; a form feed turns the page, an empty line ends a paragraph."""
    for number, page in enumerate(_decode(path).split("\f"), 1):
        blocks = [Block(part.strip(), number) for part in re.split(r"\n\s*\n", page) if part.strip()]
        yield RawPage(number, blocks=blocks)


def read_markdown(path: Path) -> Iterator[RawPage]:
    """Markdown as one page: `#` headings, paragraphs, code and tables as they stand."""
    blocks: list[Block] = []
    held: list[str] = []
    fenced = False
    for line in [*_decode(path).split("\n"), ""]:
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
        heading = None if fenced else re.match(r"(#{1,6})\s+(.+?)\s*#*$", line)
        if heading or (not line.strip() and not fenced):
            if held:
                blocks.append(Block("\n".join(held), 1, kind="table" if held[0].lstrip().startswith("|") else "text"))
            held = []
        if heading:
            blocks.append(Block(heading[2], 1, level=len(heading[1])))
        elif line.strip():
            held.append(line)
    if held:
        blocks.append(Block("\n".join(held), 1))
    yield RawPage(1, blocks=blocks)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data[:4096] and not data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise Refused("not_text")
    encodings = ["utf-16"] if data.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8-sig", "cp949"]
    for encoding in encodings:
        try:
            return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")
        except UnicodeDecodeError:
            continue
    raise Refused("not_text")


def _open_zip(path: Path) -> zipfile.ZipFile:
    """A zip container whose announced size is sane; what is really unpacked is bounded by the child's memory limit."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise Refused("damaged", str(error)) from error
    total = sum(info.file_size for info in archive.infolist())
    if total > _MAX_UNZIPPED or any(
        i.file_size > 2**20 * 8 and i.file_size > _MAX_RATIO * i.compress_size for i in archive.infolist()
    ):
        raise Refused("bomb", str(total))
    if any(info.flag_bits & 1 for info in archive.infolist()):
        raise Refused("encrypted")
    return archive


def read_docx(path: Path) -> Iterator[RawPage]:
    """A Word file in the order of its body; pages as Word last laid them out."""
    import docx
    from docx.opc.exceptions import PackageNotFoundError
    from docx.table import Table
    from docx.text.paragraph import Paragraph

    _open_zip(path).close()
    try:
        document = docx.Document(str(path))
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise Refused("damaged", str(error)) from error
    page = RawPage(1)
    for item in document.iter_inner_content():
        if isinstance(item, Table):
            text = "\n".join(" | ".join(_unique_cells(row)) for row in item.rows)
            if text.strip(" |\n"):
                page.blocks.append(Block(text, page.number, kind="table"))
            continue
        assert isinstance(item, Paragraph)
        breaks = len(item._p.xpath('.//w:lastRenderedPageBreak | .//w:br[@w:type="page"]'))
        if text := item.text.strip():
            style = (item.style.name or "") if item.style else ""
            level = re.match(r"(?:Heading|제목)\s*(\d)", style)
            page.blocks.append(Block(text, page.number, level=int(level[1]) if level else int(style == "Title")))
        for _ in range(breaks):
            yield page
            page = RawPage(page.number + 1)
    yield page


def _unique_cells(row: Any) -> list[str]:
    """The texts of a row's cells; a merged cell once."""
    seen: list[Any] = []
    for cell in row.cells:
        if not any(cell._tc is other for other in seen):
            seen.append(cell._tc)
    return [" ".join(text.text for text in cell.iter("{*}t") if text.text) for cell in seen]


_HP = "{http://www.hancom.co.kr/hwpml/2011/paragraph}"


def read_hwpx(path: Path) -> Iterator[RawPage]:
    """A Hangul file (OWPML, KS X 6101): sections of paragraphs; `pageBreak` turns the page."""
    archive = _open_zip(path)
    names = sorted(
        (name for name in archive.namelist() if re.fullmatch(r"Contents/section\d+\.xml", name)),
        key=lambda name: int(re.sub(r"\D", "", name)),
    )
    if not names:
        raise Refused("damaged", "no Contents/section0.xml")
    page = RawPage(1)
    for name in names:
        with archive.open(name) as stream:
            depth = 0
            for event, element in iterparse(stream, ("start", "end")):  # noqa: S314 - expat fetches nothing, and limits entities
                if element.tag != f"{_HP}p":
                    continue
                depth += 1 if event == "start" else -1
                if event == "end" and depth == 0:
                    if element.get("pageBreak") == "1" and page.blocks:
                        yield page
                        page = RawPage(page.number + 1)
                    page.blocks.extend(_hwpx_blocks(element, page.number))
                    element.clear()
    yield page


def _hwpx_blocks(paragraph: Element, number: int) -> list[Block]:
    tables = []
    for table in paragraph.iter(f"{_HP}tbl"):
        rows = [
            " | ".join(" ".join(_own_text(cell).split()) for cell in row.findall(f"{_HP}tc"))
            for row in table.findall(f"{_HP}tr")
        ]
        tables.append(Block("\n".join(rows), number, kind="table"))
    text = "".join(_own_text(run) for run in paragraph.findall(f"{_HP}run/{_HP}t")).strip()
    return [*([Block(text, number)] if text else []), *tables]


def _own_text(element: Element) -> str:
    return "".join(element.itertext())
