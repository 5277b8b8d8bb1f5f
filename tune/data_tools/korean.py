"""How much of a text is Korean or English, by its letters."""

import re

_HANGUL = re.compile("[가-힣ㄱ-ㅎㅏ-ㅣ]")
_LATIN = re.compile("[A-Za-z]")
_LETTER = re.compile(r"[^\W\d_]")


def korean_share(text: str) -> float:
    """Hangul among all letters, 0 to 1; 0 where there is no letter."""
    letters = len(_LETTER.findall(text))
    return len(_HANGUL.findall(text)) / letters if letters else 0.0


def english_share(text: str) -> float:
    """Latin letters among all letters, 0 to 1; 0 where there is no letter."""
    letters = len(_LETTER.findall(text))
    return len(_LATIN.findall(text)) / letters if letters else 0.0
