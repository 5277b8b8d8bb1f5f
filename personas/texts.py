"""What is done to any text: its clean form, about how many tokens it has, how like another it is."""

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


def overlap(a: str, b: str) -> float:
    """Likeness of two texts: Jaccard index of their character 3-grams, blanks left out, 0 to 1."""
    grams = []
    for text in (a, b):
        squeezed = "".join(unicodedata.normalize("NFC", text).lower().split())
        grams.append({squeezed[i : i + 3] for i in range(max(1, len(squeezed) - 2))})
    return len(grams[0] & grams[1]) / len(grams[0] | grams[1])
