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


_TURNED_DOWN = re.compile(
    "|".join(
        (
            r"(?:드릴|줄|도울|할|답할|말할) 수(?:는|가|도)? ?없",
            r"(?:드리|주|돕|말하|가르치|알리|권하|다루)지(?:는|도)? 않",
            r"드리기(?:는)? 어렵|드리지(?:는)? 못|지 않을게|지 않겠|거절",
            r"안 (?:알려|도와|가르쳐|말해|해) ?(?:드|줄|주)|절대 안 |안 될 (?:일|말)",
            r"\S시?면 안 (?:돼|되|됩)|말아 ?주세요|하지 마세요",
            r"(?:불법|범죄|폭력|차별|학대|사기|도둑질|협박|괴롭힘)(?:이라|이에요|이니|이고|입니다|예요|라서)",
            r"(?:처벌|벌금|징역)\S* ?(?:받|물|될|돼|살)|(?:죄|침해)(?:가|이)? ?(?:돼|될|됩|예요|라)",
        )
    )
)


def is_refusal(text: str) -> bool:
    """Whether a reply turns a request down: says near its beginning that it will not, or that it must not be done."""
    return bool(_TURNED_DOWN.search(" ".join(text.split()[:40])))
