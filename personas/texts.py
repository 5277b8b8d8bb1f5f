"""What is done to any text: its clean form, and about how many tokens it has."""

import unicodedata


def clean(text: str) -> str:
    """NFC, and line ends as `\\n`."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return unicodedata.normalize("NFC", text)


def estimate_tokens(text: str) -> int:
    """Tokens of a text, rather too many than too few: 0.8 a Hangul syllable, a third a Latin character."""
    hangul = sum(1 for char in text if "가" <= char <= "힣")
    return int(hangul * 0.8 + (len(text) - hangul) / 3) + 1
