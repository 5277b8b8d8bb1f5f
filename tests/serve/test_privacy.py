"""Personal data in Korean text is masked; the rest of the text is not touched, and nothing heavy is imported."""

import subprocess
import sys

import pytest

from serve.privacy import mask


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("제 주민번호는 900101-1234568이에요", "제 주민번호는 [주민등록번호]이에요"),
        ("번호900101-1234567입니다", "번호[주민등록번호]입니다"),
        ("990315 - 2345678 맞나요", "[주민등록번호] 맞나요"),
        ("9903152345678", "[주민등록번호]"),
        ("외국인 900101 5234567", "외국인 [외국인등록번호]"),
        ("외국인등록번호 900101-5234567", "외국인등록번호 [외국인등록번호]"),
        ("tony.stark+1@stark.co.kr로 보내 주세요", "[이메일]로 보내 주세요"),
        ("메일tony@stark.com이야", "메일[이메일]이야"),
        ("전화는 010-1234-5678로", "전화는 [전화번호]로"),
        ("01012345678번으로 걸어", "[전화번호]번으로 걸어"),
        ("０１０－１２３４－５６７８", "[전화번호]"),
        ("+82 10-1234-5678", "[전화번호]"),
        ("02-345-6789 사무실", "[전화번호] 사무실"),
        ("카드4111-1111-1111-1111로 결제", "카드[카드번호]로 결제"),
        ("4111111111111111", "[카드번호]"),
        ("a@b.kr, 010-1234-5678, c@d.kr", "[이메일], [전화번호], [이메일]"),
        ("운전면허 11-12-123456-01", "운전면허 [운전면허번호]"),
    ],
)
def test_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "소코비아 협정은 2016년 6월 27일에 117개 나라가 서명했어.",
        "원주율은 3.141592653589793이야",
        "12,345,678원",
        "버전 1.16.0, 포트 8000, IP 127.0.0.1",
        "오후 3:15-4:30 회의",
        "@everyone 안녕",
        "별점 4.5/5, 1234 5678",
        "2026-11-21T12:12:52",
    ],
)
def test_not_touched(text: str) -> None:
    assert mask(text) == text


def test_it_asks_no_network_and_imports_no_torch() -> None:
    script = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise SystemExit('network')\n"
        "socket.getaddrinfo = refuse\n"
        "from serve.privacy import mask\n"
        "assert 'presidio_analyzer' not in sys.modules\n"
        "assert mask('a@b.kr 010-1234-5678') == '[이메일] [전화번호]'\n"
        "assert 'torch' not in sys.modules\n"
        "import torch\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
