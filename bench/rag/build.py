"""Print the evaluation corpus to PDF and put page numbers into the questions.

    python bench/rag/build.py [--scale] [--check]

Prints `corpus/*.md` and Debian's `debian-faq-ko` to `build/rag/pdf/` with headings, a contents page with page numbers,
page headers and footers; `--scale` adds manuals from `libreoffice-help-ko` in `build/rag/scale/`. Then the pages of
`questions.jsonl` are read off the PDFs: those whose text holds a question's `evidence`. `--check` only compares.
Needs Chromium and the Nanum fonts (Debian: chromium, fonts-nanum) and apt-get for the two packages.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pypdfium2
from lxml import html as lxml_html
from markdown_it import MarkdownIt
from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).parent
QUESTIONS = HERE / "questions.jsonl"
OUT = HERE.parents[1] / "build" / "rag"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SCALE_FOLDERS = ("swriter", "scalc", "simpress", "sdraw", "smath", "schart", "sdatabase", "sbasic", "shared")
STYLE = """
@page { size: A4 }
body { font: 11pt/1.7 NanumGothic; word-break: keep-all; }
h1 { font-size: 20pt } h2 { font-size: 15pt } h3 { font-size: 12.5pt } h2, h3, h4 { break-after: avoid }
table { border-collapse: collapse; margin: 8pt 0; } tr { break-inside: avoid }
th, td { border: 1px solid #888; padding: 3pt 8pt; text-align: left }
pre, code { font-family: NanumGothicCoding; } pre { background: #f3f3f3; padding: 6pt; white-space: pre-wrap }
.contents { break-before: page; break-after: page } .chapter { break-before: page }
.contents p { margin: 0; display: flex; font: 9.5pt/1.4 NanumGothic }
.contents i { flex: 1; border-bottom: 1px dotted #888; margin: 0 6pt 5pt }
"""


def packages(*names: str) -> Path:
    """Debian packages unpacked under the build folder, without installing them."""
    root = OUT / "debian"
    for name in names:
        if not (root / name).exists():
            root.mkdir(parents=True, exist_ok=True)
            subprocess.run(["apt-get", "download", "-qq", name], cwd=root, check=True)
            archive = next(root.glob(f"{name}_*.deb"))
            subprocess.run(["dpkg", "-x", archive, root / name], check=True)
    return root


def squeezed(text: str) -> str:
    """Text without spaces and hyphens: pdfium takes hyphens at line ends away, and lines differ between Chromiums."""
    return re.sub(r"[\s\-\xad\ufffe\x02]", "", text)


def page_texts(pdf: Path) -> list[str]:
    """The squeezed text of every page."""
    document = pypdfium2.PdfDocument(pdf)
    try:
        return [squeezed(page.get_textpage().get_text_bounded()) for page in document]
    finally:
        document.close()


def print_pdf(page: Page, body: str, title: str, pdf: Path) -> None:
    """Print one HTML body as A4 with a running header and page numbers."""
    page.set_content(f"<html lang=ko><title>{title}</title><style>{STYLE}</style><body>{body}</body></html>")
    small = "font: 8pt NanumGothic; width: 100%; margin: 0 18mm; color: #555"
    page.pdf(
        path=pdf,
        format="A4",
        margin={"top": "22mm", "bottom": "20mm", "left": "20mm", "right": "20mm"},
        display_header_footer=True,
        header_template=f'<div style="{small}">{title}</div>',
        footer_template=f'<div style="{small}; text-align: center">- <span class="pageNumber"></span> -</div>',
        outline=True,
        tagged=True,
    )


def contents(headings: list[str], pages: list[str]) -> str:
    """A contents page, the second; each heading with the first page that has it (0 before the first print)."""
    lines = []
    for heading in headings:
        found = next((i + 1 for i, text in enumerate(pages) if i >= 2 and squeezed(heading) in text), 0)
        lines.append(f"<p><span>{heading}</span><i></i><span>{found}</span></p>")
    return f'<div class="contents"><h2>차례</h2>{"".join(lines)}</div>'


def markdown_body(source: str) -> tuple[str, str, list[str]]:
    """Title page, rest (a page a chapter), and the headings below the title."""
    tree = lxml_html.fragment_fromstring(MarkdownIt().enable("table").render(source), create_parent="div")
    for chapter in tree.iter("h2"):
        chapter.set("class", "chapter")
    headings = [node.text_content() for node in tree.iter("h2", "h3")]
    text = lxml_html.tostring(tree, encoding="unicode")
    front, _, rest = text.partition('<h2 class="chapter">')
    return front, rest.join(['<h2 class="chapter">', ""]), headings


def print_own(page: Page, source: Path) -> Path:
    """One of the documents written for this project; printed twice, since the contents need the page numbers."""
    text = source.read_text(encoding="utf-8")
    title = text.partition("\n")[0].lstrip("# ")
    front, rest, headings = markdown_body(text)
    pdf = OUT / "pdf" / f"{source.stem}.pdf"
    pages: list[str] = []
    for _ in range(2):
        print_pdf(page, front + contents(headings, pages) + rest, title, pdf)
        pages = page_texts(pdf)
    return pdf


def print_faq(page: Page) -> Path:
    """Debian's FAQ: contents, then every chapter."""
    folder = packages("debian-faq-ko") / "debian-faq-ko/usr/share/doc/debian/FAQ/ko"
    index = lxml_html.fromstring((folder / "index.ko.html").read_bytes())
    names = dict.fromkeys(link.split("#")[0] for link in index.xpath("//div[@class='toc']//a/@href"))
    parts = [lxml_html.tostring(index.xpath("//div[@class='toc']")[0], encoding="unicode")]
    for name in names:
        chapter = lxml_html.fromstring((folder / name).read_bytes()).xpath("//div[@class='chapter']")[0]
        for toc in chapter.xpath(".//div[@class='toc']"):
            toc.drop_tree()
        parts.append(lxml_html.tostring(chapter, encoding="unicode"))
    pdf = OUT / "pdf" / "debian-faq.pdf"
    print_pdf(page, "<h1>Debian GNU/Linux FAQ</h1>" + "".join(parts), "Debian GNU/Linux FAQ", pdf)
    return pdf


def print_scale(page: Page) -> Iterator[Path]:
    """LibreOffice's help, a manual a module; hidden variants for other systems are left out."""
    root = packages("libreoffice-help-ko") / "libreoffice-help-ko/usr/share/libreoffice/help/ko/text"
    (OUT / "scale").mkdir(exist_ok=True)
    for folder in SCALE_FOLDERS:
        parts = []
        for file in sorted((root / folder).rglob("*.html")):
            for area in lxml_html.fromstring(file.read_bytes()).xpath("//div[@id='DisplayArea']"):
                for extra in area.xpath(".//*[@hidden and contains(@class, 'MAC')] | .//img | .//script"):
                    extra.drop_tree()
                parts.append(lxml_html.tostring(area, encoding="unicode"))
        pdf = OUT / "scale" / f"libreoffice-{folder}.pdf"
        print_pdf(page, "".join(parts), f"LibreOffice 도움말 {folder}", pdf)
        yield pdf


def located(questions: list[dict[str, object]]) -> list[dict[str, object]]:
    """The questions with `pages` read off the PDFs.

    Raises:
        SystemExit: evidence that is on no page, or on so many that it proves nothing.
    """
    texts = {pdf.stem: page_texts(pdf) for pdf in (OUT / "pdf").glob("*.pdf")}
    faults = []
    for question in questions:
        evidence = [squeezed(str(part)) for part in question.get("evidence", [])]  # type: ignore[attr-defined]
        pages = {i + 1 for part in evidence for i, text in enumerate(texts[str(question["document"])]) if part in text}
        question["pages"] = sorted(pages)
        missing = [part for part in evidence if not any(part in text for text in texts[str(question["document"])])]
        if missing or len(pages) > 3 or bool(evidence) == (question["kind"] == "unanswerable"):
            faults.append(f"{question['id']}: pages {sorted(pages)}, not found {missing}")
    if faults:
        sys.exit("\n".join(faults))
    return questions


def read_questions() -> list[dict[str, object]]:
    return [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").split("\n") if line]


def main() -> None:
    before = QUESTIONS.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        (OUT / "pdf").mkdir(parents=True, exist_ok=True)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page()
            printed = [print_own(page, source) for source in sorted((HERE / "corpus").glob("*.md"))]
            printed.append(print_faq(page))
            printed.extend(print_scale(page) if "--scale" in sys.argv else [])
            browser.close()
        for pdf in printed:
            print(json.dumps({"pdf": pdf.name, "pages": len(page_texts(pdf))}))
    after = "".join(json.dumps(question, ensure_ascii=False) + "\n" for question in located(read_questions()))
    if "--check" in sys.argv and after != before:
        sys.exit("questions.jsonl: pages differ from the PDFs; run python bench/rag/build.py")
    QUESTIONS.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
