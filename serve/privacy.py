"""Takes personal data out of a text before it is stored: resident numbers, licences, cards, phone numbers, e-mail.

The recognizers are Presidio's own for Korea and for cards, and phonenumbers' matcher; no language model is loaded and
nothing is fetched. Importing Presidio imports spaCy, and that torch and transformers where they are installed: 14 s
that pattern recognizers do not need. The import is made to find none, which leaves 2 s, at the first feedback.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presidio_analyzer import PatternRecognizer

_HEAVY = ("torch", "transformers", "stanza", "spacy_huggingface_pipelines", "tensorflow", "mxnet", "cupy")
_LEAST_SCORE = 0.3  # Presidio's passport pattern alone scores 0.05: any letter with eight digits
_FULL_WIDTH = {ord("０") + n: str(n) for n in range(10)} | {ord("－"): "-", ord("＠"): "@", ord("．"): "."}
# Presidio's own e-mail pattern takes Hangul for a part of the domain ("stark.kr로"), and asks the network for suffixes.
_EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
_DATE = r"(?<!\d)\d{2}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])"
_SPACES = [("-", ""), ("–", ""), ("~", ""), (" ", "")]


@contextmanager
def _without(names: tuple[str, ...]) -> Iterator[None]:
    """Let first imports of these packages fail, as if they were not installed."""
    blocked = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(blocked))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in blocked:
            del sys.modules[name]


@cache
def _recognizers() -> "dict[str, PatternRecognizer]":
    """Recognizers by the label that takes the found text's place."""
    with _without(_HEAVY):
        from presidio_analyzer import Pattern, PatternRecognizer
        from presidio_analyzer.predefined_recognizers import (
            CreditCardRecognizer,
            KrDriverLicenseRecognizer,
            KrFrnRecognizer,
            KrPassportRecognizer,
            KrRrnRecognizer,
        )

    def spaced(sexes: str) -> Pattern:
        return Pattern("spaced", rf"{_DATE}\s?[-–~ ]\s?[{sexes}]\d{{6}}(?!\d)", 0.5)

    return {
        "주민등록번호": KrRrnRecognizer([*KrRrnRecognizer.PATTERNS, spaced("1-4")], replacement_pairs=_SPACES),
        "외국인등록번호": KrFrnRecognizer([*KrFrnRecognizer.PATTERNS, spaced("5-8")], replacement_pairs=_SPACES),
        "운전면허번호": KrDriverLicenseRecognizer(),
        "여권번호": KrPassportRecognizer(),
        "카드번호": CreditCardRecognizer(),
        "이메일": PatternRecognizer("EMAIL_ADDRESS", patterns=[Pattern("e-mail", _EMAIL, 0.9)]),
    }


def _found(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, label) of personal data, the surest kinds first."""
    # Hangul next to a digit is no word boundary to these patterns, so whatever is not ASCII becomes a blank.
    plain = re.sub(r"[^\x00-\x7f]", " ", text.translate(_FULL_WIDTH))
    for label, recognizer in _recognizers().items():
        for result in recognizer.analyze(plain, recognizer.supported_entities, None):
            if result.score >= _LEAST_SCORE:
                yield result.start, result.end, label
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(plain, "KR"):
        yield match.start, match.end, "전화번호"


def mask(text: str) -> str:
    """The text with personal data replaced by `[label]`; where two kinds overlap the surer one names it."""
    spans: list[tuple[int, int, str]] = []
    for start, end, label in _found(text):
        if all(end <= s or e <= start for s, e, _ in spans):
            spans.append((start, end, label))
    for start, end, label in sorted(spans, reverse=True):
        text = f"{text[:start]}[{label}]{text[end:]}"
    return text
