"""What can be told of a reply by its text alone: share of Korean, loops."""

import re
from collections import Counter

_REPEATED = re.compile(r"(\S.{1,60}?)(?:\s*\1){3,}", re.DOTALL)


def hangul_share(text: str) -> float:
    """Share of Hangul syllables among the letters of a text, 0 to 1; 0 where there are no letters."""
    letters = [c for c in text if c.isalpha()]
    return sum("가" <= c <= "힣" for c in letters) / len(letters) if letters else 0.0


def has_loop(text: str) -> bool:
    """Whether a phrase comes four times over: in a row (two characters or more), or any three words in all."""
    words = text.split()
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    return bool(_REPEATED.search(text)) or any(count >= 4 for count in triples.values())
