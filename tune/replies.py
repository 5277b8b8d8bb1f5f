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


# What an assistant says that it does not do; "그러지 않아요" of a process or a plant is no refusal.
_DEEDS = (
    "드리|주|돕|거들|말하|말씀드리|가르치|알리|권하|추천하|소개하|안내하|설명하|이야기하|답하|다루|만들|쓰|적|짜|꾸미|지어내|베끼|번역하|계산하"
    "|고르|골라내|찾아보|보태|꺼내|읊"
)
_TURNED_DOWN = re.compile(
    "|".join(
        (
            r"(?:드릴|줄|도울|할|답할|말할|거들|쓸|만들) 수(?:는|가|도)? ?없",
            rf"(?:{_DEEDS})지(?:는|도)? (?:않(?:아요|습니다|을|고)|못(?:해요|합니다|하))",
            r"드리기(?:는)? 어렵|드리지(?:는)? 못|지 않을게|지 않을래|지 않겠|거절|사양할",
            r"못 (?:도와|알려|써|만들|드려|돕|찾아|골라)|그건 안 (?:돼|됩)",
            r"안 (?:알려|도와|가르쳐|말해|해|써|만들) ?(?:드|줄|주)|안 (?:할게|쓸게|할래)|절대 안 |안 될 (?:일|말)",
            r"\S시?면 안 (?:돼|되|됩)|말아 ?주세요|말리고 싶|지 않으셨으면",
            r"(?:하지|쓰지|가지|삼키지|보내지|찍지|퍼뜨리지|심지|저지르지|올리지|타지) ?(?:는 )?마(?:세요|시고)",
            r"(?:불법|범죄|폭력|차별|학대|사기|도둑질|협박|괴롭힘|침입|횡령)(?:이라|이에요|이니|이고|입니다|예요|라서|에요)",
            r"(?:처벌|벌금|징역)\S* ?(?:받|물|될|돼|살)|(?:죄|침해|범죄)(?:가|이)? ?(?:돼|될|됩|예요|라|되)",
        )
    )
)


def is_refusal(text: str) -> bool:
    """Whether a reply turns a request down: says near its beginning that it will not, or that it must not be done."""
    return bool(_TURNED_DOWN.search(" ".join(text.split()[:40])))
