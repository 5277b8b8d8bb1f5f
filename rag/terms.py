"""Korean words by Kiwi: the morphemes that are indexed, where sentences end, and which halves are one word."""

import re
import threading
from collections.abc import Iterable
from functools import cache
from typing import Any

# What carries meaning: nouns, roots, verbs, adjectives, adverbs, foreign words, numbers, and written signs.
_KEPT = ("NN", "NR", "NP", "XR", "VV", "VA", "MAG", "SL", "SH", "SN", "W_")
# Verbs that say nothing of their own.
_EMPTY = {
    "하",
    "되",
    "있",
    "없",
    "이",
    "아니",
    "않",
    "같",
    "것",
    "수",
    "등",
    "때",
    "그",
    "이것",
    "그것",
    "저",
    "우리",
    "위하",
    "대하",
    "통하",
}
_CODE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9]|[._/+:@#=-](?=[A-Za-z0-9]))*")
_lock = threading.Lock()


@cache
def kiwi() -> Any:
    """The analyser; loading it takes about a second."""
    from kiwipiepy import Kiwi  # type: ignore[import-untyped]

    with _lock:
        return Kiwi(num_workers=2)


def _codes(text: str) -> list[str]:
    """Commands, file names, versions and numbers as they were written, and their parts."""
    found = []
    for match in _CODE.finditer(text):
        whole = match[0].lower()
        found.append(whole)
        parts = re.split(r"[._/+:@#=-]", whole)
        if len(parts) > 1:
            found.extend(part for part in parts if part)
        if re.fullmatch(r"\d{1,3}(,\d{3})+", whole):
            found.append(whole.replace(",", ""))
    return found


def _morphemes(tokens: Iterable[Any]) -> list[str]:
    return [
        token.form.lower()
        for token in tokens
        if token.tag.startswith(_KEPT) and not token.tag.startswith(("SL", "SN", "W_")) and token.form not in _EMPTY
    ]


def terms(text: str) -> list[str]:
    """The words of a text as they are indexed and asked for, in order, repeats kept."""
    plain = re.sub(r"(?<=\d),(?=\d{3})", "", text)
    return [*_morphemes(kiwi().tokenize(plain)), *_codes(plain)]


def many_terms(texts: list[str]) -> list[list[str]]:
    """`terms` of many texts at once."""
    plain = [re.sub(r"(?<=\d),(?=\d{3})", "", text) for text in texts]
    return [[*_morphemes(tokens), *_codes(text)] for text, tokens in zip(plain, kiwi().tokenize(plain), strict=True)]


def sentences(text: str) -> list[tuple[int, int]]:
    """Start and end of every sentence in a text."""
    return [(sentence.start, sentence.end) for sentence in kiwi().split_into_sents(text)]


def one_word(left: str, right: str) -> bool:
    """Whether two Hangul pieces, the end of a line and the start of the next, read better as one word."""
    _, spaced = kiwi().glue([left, right], return_space_insertions=True)
    return not spaced[0]
