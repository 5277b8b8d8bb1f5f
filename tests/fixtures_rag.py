"""Documents for the tests of rag, made on the spot: Korean PDFs by headless Chromium, broken ones by hand."""

import subprocess
import zlib
from pathlib import Path

import pytest

CHROMIUM = "/usr/bin/chromium"

_HTML = """<html lang="ko"><meta charset="utf-8"><style>
@page{{size:A4;margin:22mm;@top-center{{content:"가온 정수기 설명서"}}@bottom-center{{content:counter(page)}}}}
body{{font-family:NanumGothic;font-size:11pt}} h1{{break-before:page}} td,th{{border:1px solid;padding:2px}}
</style>{body}</html>"""
MANUAL = """
<h1>차례</h1><p>1. 설치 ........ 2</p><p>2. 보증 ........ 3</p>
<h1>1. 설치</h1><p>정수기는 벽에서 10cm 떨어뜨려 놓습니다. 물이 새는지 하루 동안 살펴보고, 이상이 있으면
곧바로
급수 밸브를 잠근 다음 상담실에 알려 주십시오. 처음 나오는 물 2리터는 마시지 말고 버립니다.</p>
<h2>1.1 준비물</h2><p>십자드라이버와 8mm 드릴이 필요합니다.</p>
<h1>2. 보증</h1><p>보증 기간은 구입한 날부터 2년입니다. 필터는 소모품이므로 보증하지 않습니다.</p>
<table><tr><th>부품</th><th>가격</th></tr>
<tr><td>침전 필터</td><td>12,000원</td></tr><tr><td>탄소 필터</td><td>18,500원</td></tr></table>
<h1>3. 오류 표시</h1><p>E07이 깜박이면 물이 모자란 것입니다. 급수 밸브를 열고 reset-valve 명령을 앱에서 실행합니다.</p>
"""


def print_pdf(body: str, target: Path) -> Path:
    """Print HTML to a PDF as a person's office would: A4, header, page number, Korean font."""
    page = target.with_suffix(".html")
    page.write_text(_HTML.format(body=body), encoding="utf-8")
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", f"--print-to-pdf={target}",
         f"--user-data-dir={target.parent / 'chromium'}", str(page)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    page.unlink()
    return target


@pytest.fixture(scope="session")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A printed Korean manual of five pages: contents, installation, warranty, faults."""
    return print_pdf(MANUAL, tmp_path_factory.mktemp("manual") / "manual.pdf")


def tiny_pdf(text: str = "Hello world, this is a page.", stream: bytes | None = None, filters: str = "") -> bytes:
    """A PDF of one page by hand; `stream` replaces its content."""
    content = stream if stream is not None else f"BT /F1 12 Tf 72 700 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        f"<</Length {len(content)}{filters}>>stream\n".encode() + content + b"\nendstream",
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    made, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(made))
        made += f"{number} 0 obj".encode() + body + b"endobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    end = f"xref\n0 6\n0000000000 65535 f \n{table}trailer<</Size 6/Root 1 0 R>>\nstartxref\n{len(made)}\n%%EOF"
    return made + end.encode()


def pdf_bomb(mebibytes: int) -> bytes:
    """A PDF of a few kilobytes whose page unpacks to so many MiB."""
    packer = zlib.compressobj(9)
    block = b" " * 2**20
    once = b"".join(packer.compress(block) for _ in range(mebibytes)) + packer.flush()
    return tiny_pdf(stream=zlib.compress(once, 9), filters="/Filter[/FlateDecode/FlateDecode]")
