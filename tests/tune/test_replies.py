"""Measures of a reply's text."""

import pytest

from tune.replies import hangul_share, has_loop


@pytest.mark.parametrize(
    ("text", "share"), [("안녕!", 1.0), ("AI야", 1 / 3), ("12 !?", 0.0), ("", 0.0), ("漢字가", 1 / 3)]
)
def test_hangul_share(text: str, share: float) -> None:
    assert hangul_share(text) == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "loops"),
    [
        ("수리에수리에수리에수리에", True),
        ("나는 간다. 나는 간다. 나는 간다. 나는 간다.", True),
        ("가 나 다 라 가 나 다 마 가 나 다 바 가 나 다", True),
        ("ㅋㅋㅋㅋ 그래, 그래, 그래.", False),
        ("좋은 질문이야. 나라면 배터리부터 확인해. 그다음은 배선이고.", False),
        ("하하하하하!", False),
    ],
)
def test_has_loop(text: str, loops: bool) -> None:
    assert has_loop(text) is loops
