"""BM25 over pairs of neighbouring letters, within a pool of passages that the other retrievers found.

Morphemes miss what the analyser cuts differently in question and passage (new words, compounds, endings); pairs of
syllables inside words do not depend on it. Over a pool of a hundred they are counted in milliseconds, without an index.
"""

import math
import re
from collections.abc import Sequence

_K1, _B = 1.2, 0.75
_NOT_WORD = re.compile(r"\W+")


def pairs(text: str) -> list[str]:
    """Pairs of neighbouring letters inside words, in lower case."""
    words = _NOT_WORD.sub(" ", text.lower()).split()
    return [word[at : at + 2] for word in words for at in range(len(word) - 1)]


def pair_scores(query: str, texts: Sequence[str]) -> list[float]:
    """BM25 of each text, with the texts themselves as the collection."""
    plain = [_NOT_WORD.sub(" ", text.lower()) for text in texts]
    average = sum(map(len, plain)) / max(1, len(plain)) or 1.0
    norms = [_K1 * (1 - _B + _B * len(text) / average) for text in plain]
    scores = [0.0] * len(plain)
    for pair in dict.fromkeys(pairs(query)):
        counts = [text.count(pair) for text in plain]
        holding = sum(count > 0 for count in counts)
        weight = math.log(1 + (len(plain) - holding + 0.5) / (holding + 0.5))
        for at, count in enumerate(counts):
            if count:
                scores[at] += weight * count * (_K1 + 1) / (count + norms[at])
    return scores
